"""The application in the Envoy of `pyvoy_calls`: the same echo through pyvoy and over a socket.

It imports little, so that the Envoy starts soon.
"""

import asyncio
import os
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

LOOP = "python-loop"
"""The name that the application gives to the thread of its event loop."""
SOCKET = "_RATELIMITD_BENCH_SOCKET"
"""The environment variable with the name of the abstract Unix socket that the application serves."""

_LENGTH = re.compile(rb"content-length: (\d+)")
_RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_START = {"type": "http.response.start", "status": 200, "headers": []}
_BODY = {"type": "http.response.body", "body": b""}


class _Connection(asyncio.Protocol):
    """A connection of Envoy, which sends one well-formed request at a time."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._data = b""
        self._calls = set[asyncio.Task[None]]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answers a complete request in a task, as pyvoy does."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self._data = b""
            task = asyncio.get_running_loop().create_task(self._respond())
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _respond(self) -> None:
        self._transport.write(_RESPONSE)


class _Echo:
    """Reads the body of each call, and returns an empty response."""

    _asgi_single_callable = True  # asgiref's hint that a plain function returns the coroutine: this is ASGI 3

    def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Handles one call, or the lifespan of the process.

        It calls `receive` before the task of the call runs, as the service does.
        """
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        return self._respond(receive(), receive, send)

    async def _respond(self, first: Awaitable[dict[str, Any]], receive: Receive, send: Send) -> None:
        event = await first
        while event.get("more_body"):
            event = await receive()
        await send(_START)
        await send(_BODY)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        _name_thread()
        async with await asyncio.get_running_loop().create_unix_server(
            _Connection, f"\0{os.environ[SOCKET]}"
        ):
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


def _name_thread() -> None:
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(LOOP)


application = _Echo()
