"""The pure part, with no store, no gRPC and no clock."""
