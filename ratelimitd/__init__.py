"""ratelimitd: exact token-bucket rate limits for Envoy, kept in Redis."""

__version__ = "0.9.0"
