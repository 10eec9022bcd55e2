"""HTTP connections that no client can hold for long: one request, one response, a few seconds in all.

They are for probes and scrapes, so they must cost a busy event loop little, whatever clients send. At most
MAX_CONNECTIONS are open: a further one closes the oldest. So clients that hold connections open do not keep
out a client that sends its request at once. Bodies of requests are ignored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, cast

import h11

MAX_CONNECTIONS = 16
"""Connections at a time. Each takes a file descriptor, and memory for one response."""

LIFETIME_S = 10.0
"""Seconds after which a connection is closed, whatever its state. Prometheus waits 10 s for a response."""

MAX_HEAD_BYTES = 16_384
"""Maximum size of the request line with the headers."""

MAX_IGNORED_BYTES = 1 << 20
"""Bytes that a client may send after the head of its request, before the connection is closed.

Closing at once would discard the response: the kernel resets a connection whose input was not read.
"""


class Response(NamedTuple):
    """A response. `headers` are added to the headers that every response has."""

    status: HTTPStatus
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


def sentence(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> Response:
    """Returns a response whose body is a sentence."""
    return Response(status, f"{text}\n".encode(), (("content-type", "text/plain; charset=utf-8"), *headers))


Answer = Callable[[h11.Request], Awaitable[Response]]
"""Answers a request; it raises nothing."""


class HttpConnections:
    """Makes the protocols of a server's connections, and ends them."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._open: dict[_Connection, None] = {}

    def __call__(self) -> asyncio.Protocol:
        """Returns the protocol of a new connection."""
        return _Connection(self)

    def add(self, connection: "_Connection") -> None:
        """Adds an open connection, and closes the oldest one if there are too many."""
        self._open[connection] = None
        if len(self._open) > MAX_CONNECTIONS:
            next(iter(self._open)).abort()

    def remove(self, connection: "_Connection") -> None:
        """Removes a connection that is closed."""
        self._open.pop(connection, None)

    async def close(self) -> None:
        """Closes all connections. No task of theirs is left running."""
        tasks = [task for connection in list(self._open) if (task := connection.abort()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)


class _Connection(asyncio.Protocol):
    _transport: asyncio.Transport
    _timer: asyncio.TimerHandle

    def __init__(self, connections: HttpConnections) -> None:
        self._connections = connections
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._task: asyncio.Task[None] | None = None
        self._ignored_bytes = 0
        self._client_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport has another base class
        self._timer = asyncio.get_running_loop().call_later(LIFETIME_S, self.abort)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        self.abort()

    def abort(self) -> asyncio.Task[None] | None:
        """Closes the connection without waiting for the client. Returns the task that it ends, if any."""
        self._timer.cancel()
        self._connections.remove(self)
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def data_received(self, data: bytes) -> None:
        if self._task is not None:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > MAX_IGNORED_BYTES:
                self.abort()
            return
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            self._task = asyncio.create_task(self._respond(error))
            return
        if isinstance(event, h11.Request):
            self._task = asyncio.create_task(self._respond(event))

    def eof_received(self) -> bool:
        """Keeps the connection open for a response that is still to be sent."""
        self._client_ended = True
        return self._task is not None and not self._task.done()

    async def _respond(self, received: h11.Request | h11.RemoteProtocolError) -> None:
        if isinstance(received, h11.Request):
            response = await self._connections.answer(received)
        else:
            response = _refusal(received)
        headers = [*response.headers, ("content-length", str(len(response.body))), ("connection", "close")]
        head = h11.Response(status_code=response.status, reason=response.status.phrase, headers=headers)
        only_head = isinstance(received, h11.Request) and received.method == b"HEAD"
        body = () if only_head else (h11.Data(data=response.body),)
        self._transport.writelines(filter(None, map(self._http.send, (head, *body, h11.EndOfMessage()))))
        if self._client_ended:
            self._transport.close()
        else:
            self._transport.write_eof()


def _refusal(error: h11.RemoteProtocolError) -> Response:
    if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
        too_large = f"the request line and the headers must have at most {MAX_HEAD_BYTES} bytes"
        return sentence(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, too_large)
    return sentence(HTTPStatus.BAD_REQUEST, "not a valid HTTP/1.1 request")
