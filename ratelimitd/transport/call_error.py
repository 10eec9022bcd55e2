"""How a call ends that has no response."""

from ratelimitd.core.grpc_code import GrpcCode


class CallError(Exception):
    """Ends a call with a status instead of a response. The text goes to the caller."""

    def __init__(self, code: GrpcCode, message: str) -> None:
        super().__init__(message)
        self.code = code
