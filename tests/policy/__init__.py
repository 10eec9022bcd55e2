"""Policies: what people write, what is refused, and what it becomes."""
