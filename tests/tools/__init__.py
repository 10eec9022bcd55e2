"""Documented commands, run as written. They need Docker, curl, grpcurl and redis-cli."""
