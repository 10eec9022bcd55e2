"""What the documents and the demo tell people to type, typed: needs Docker, curl, grpcurl and redis-cli."""
