"""The ASGI events that make up the response of a call."""

import json
from contextlib import suppress

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Send
from ratelimitd.transport.fast.framing import CONTENT_TYPE, status_fields
from ratelimitd.transport.http_call import Fields

START = {"type": "http.response.start", "status": 200, "headers": [CONTENT_TYPE], "trailers": True}
NO_BODY = {"type": "http.response.body", "body": b""}
OK = {"type": "http.response.trailers", "headers": status_fields(GrpcCode.OK)}


async def refuse_http(send: Send, status: int, message: str) -> None:
    """Sends this status and message to a client that does not speak gRPC."""
    await respond(
        send, status, [(b"content-type", b"application/json")], json.dumps({"error": message}).encode()
    )


async def respond(send: Send, status: int, fields: Fields, body: bytes) -> None:
    """Sends a whole response."""
    with suppress(OSError):  # the caller has left
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: CallError) -> None:
    """Sends a response without a body: HTTP 200, and the status of the call among the headers."""
    fields = [CONTENT_TYPE, *status_fields(error.code, str(error))]
    with suppress(OSError):  # the caller has left
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send(NO_BODY)
