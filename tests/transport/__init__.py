"""Bytes in, bytes out, and the service as a gRPC client sees it."""
