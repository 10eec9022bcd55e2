"""Limiters, each around the next. The upper ones take one request (core.ports.Limiter), the lowest many."""
