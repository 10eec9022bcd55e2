"""gRPC status codes, as google.rpc.Code numbers them."""

from enum import IntEnum


class GrpcCode(IntEnum):
    """The codes that ratelimitd returns, in a CheckResponse or as the status of a call.

    Source: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
    """

    OK = 0
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
