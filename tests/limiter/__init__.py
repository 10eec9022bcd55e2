"""Tests of ratelimitd.limiter and of the script that takes tokens, partly on a real store."""
