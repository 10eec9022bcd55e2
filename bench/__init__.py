"""Measures what a decision costs: `make bench`. See README.md. It is not part of the wheel."""
