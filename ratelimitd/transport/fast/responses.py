"""The ASGI events that make up the response of a gRPC call."""

from contextlib import suppress

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Send
from ratelimitd.transport.fast.framing import CONTENT_TYPE, status_fields

START = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
NO_BODY = {"type": "http.response.body", "body": b""}
OK = {"type": "http.response.trailers", "headers": status_fields(GrpcCode.OK)}


async def refuse(send: Send, error: CallError) -> None:
    """Sends a response without a body: HTTP 200, and the status of the call among the headers."""
    fields = [CONTENT_TYPE, *status_fields(error.code, str(error))]
    with suppress(OSError):  # the caller has left
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send(NO_BODY)
