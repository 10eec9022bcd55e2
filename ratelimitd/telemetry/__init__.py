"""Signals about a running service. A failing signal never changes a decision."""
