"""An HTTP/2 client that sends exactly the given frames, so that a test can violate the protocol."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived

from ratelimitd.address import TcpAddress

CHECK = "/envoy.service.auth.v3.Authorization/Check"


@dataclass
class Reply:
    """A response. One that consists of trailers only has them in `headers`."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    reset: bool = False

    @property
    def status(self) -> int:
        """The call's grpc-status."""
        return int((self.trailers or self.headers)["grpc-status"])


async def exchange(
    address: TcpAddress,
    chunks: Sequence[bytes],
    *,
    end: bool = True,
    path: str | bytes = CHECK,
    protocol: str | None = None,
    timeout_s: float = 10,
    **headers: str | bytes,
) -> Reply:
    """Sends each chunk as a frame of its own. With `end` false the request stays open.

    With `protocol` the request is an extended CONNECT (RFC 8441), whose response ends with its first data.

    Raises ConnectionError if the server closes the connection within the response.
    """
    reader, writer = await asyncio.open_connection(address.host, address.port)
    connection = H2Connection(H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    fields: dict[str, str | bytes] = {"content-type": "application/grpc", "te": "trailers"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    method = fields.pop("method", "POST") if protocol is None else "CONNECT"
    pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
    pseudo += [] if protocol is None else [(":protocol", protocol)]
    connection.send_headers(1, [(name.encode(), _bytes(value)) for name, value in [*pseudo, *fields.items()]])
    for chunk in chunks:
        connection.send_data(1, chunk)
    if end:
        connection.end_stream(1)
    writer.write(connection.data_to_send())
    try:
        async with asyncio.timeout(timeout_s):
            return await _reply(connection, reader, writer, tunnel=protocol is not None)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _text(headers: Iterable[tuple[object, object]]) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers}


async def _reply(
    connection: H2Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, tunnel: bool
) -> Reply:
    reply = Reply()
    while data := await reader.read(65536):
        for event in connection.receive_data(data):
            if isinstance(event, ResponseReceived):
                reply.headers = _text(event.headers)
            elif isinstance(event, TrailersReceived):
                reply.trailers = _text(event.headers)
            elif isinstance(event, DataReceived):
                reply.body += event.data
            elif isinstance(event, StreamReset):
                reply.reset = True
            if isinstance(event, StreamEnded | StreamReset) or (tunnel and reply.body):
                return reply
        writer.write(connection.data_to_send())
    raise ConnectionError(f"the server closed the connection within the response: {reply}")
