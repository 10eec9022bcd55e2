"""The error that ends a call without a response."""

from ratelimitd.core.grpc_code import GrpcCode


class CallError(Exception):
    """Ends a call with a status instead of a response. The text goes to the caller."""

    def __init__(self, code: GrpcCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotGrpcError(CallError):
    """Ends a call that is not one of gRPC, with an HTTP status that no proxy takes for `allowed`."""

    http_status = 404

    def __init__(self) -> None:
        super().__init__(
            GrpcCode.UNIMPLEMENTED,
            "gRPC needs HTTP/2, POST and the content-type application/grpc; "
            "a check over HTTP needs the path /check",
        )


def too_large(max_message_bytes: int) -> CallError:
    """The error for a message of which more than `max_message_bytes` would have to be kept."""
    return CallError(
        GrpcCode.RESOURCE_EXHAUSTED,
        f"the message has more than {max_message_bytes} bytes, not counting a copied request body",
    )


def not_one_message() -> CallError:
    """The error for a method that takes exactly one message and gets none, or several."""
    return CallError(GrpcCode.INVALID_ARGUMENT, "this method takes exactly one message")
