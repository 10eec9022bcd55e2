"""Child processes of ratelimitd, and the ports and programs that they use."""
