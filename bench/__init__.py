"""What a decision costs: `make bench`. Start with README.md; nothing of this is in the wheel."""
