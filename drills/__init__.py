"""Drills: faults on real processes under load, with a table of what clients noticed. See drills/README.md."""
