"""Limiters, each around the next: `DenyCache(Batcher(RedisLimiter))`. The ports are in `core/ports.py`."""
