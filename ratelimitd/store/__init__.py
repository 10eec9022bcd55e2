"""Connections to a store: Redis, Valkey, or the bundled Valkey."""
