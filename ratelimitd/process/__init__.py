"""Child processes, and the ports and programs that they use."""
