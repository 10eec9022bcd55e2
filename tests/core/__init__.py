"""Tests of ratelimitd.core. They need no store, no gRPC and no clock."""
