"""Tests of ratelimitd: of its modules, with a real store, and with a real Envoy."""
