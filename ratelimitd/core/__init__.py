"""The decision, made by plain functions and values: no I/O, no clock, no protobuf, no Redis."""
