"""gRPC in. The only place that knows protobuf."""
