"""Limiters: each has the one method of core.ports.Limiter, so they stack."""
