"""gRPC: the only package that knows protobuf."""
