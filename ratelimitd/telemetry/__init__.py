"""Signals out. A failing one never changes a decision."""
