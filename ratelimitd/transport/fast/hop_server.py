"""Serves the checks of the Envoy that hosts this process, over HTTP/1.1 on a Unix socket.

The socket has no file (an abstract address), and accepts connections of this process only. So the caller is
Envoy, which sends one request at a time, well-formed, with names of headers in lower case and without a body.
"""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.transport.hop_check import Answer

_END = b"\r\n\r\n"
_CREDENTIALS = struct.Struct("3i")
"""The ids of the process, user and group at the other end of a connection, in this order."""

_MAX_WAITING = 4096
"""Connections that wait for the event loop, as far as the kernel allows. One more fails at once."""

_DEFECT = b"HTTP/1.1 500 \r\ncontent-length: 0\r\n\r\n"
_log = BoundedLog("ratelimitd.hop")


@asynccontextmanager
async def serve_hop(name: str, answer: Answer) -> AsyncIterator[None]:
    """Serves while the context is open.

    Args:
        name: of the abstract socket, without the leading zero byte.
        answer: answers each request.
    """
    calls: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(
        lambda: _Connection(answer, calls), f"\0{name}", backlog=_MAX_WAITING
    )
    try:
        yield
    finally:
        server.close()


class _Connection(asyncio.Protocol):
    """A connection of Envoy.

    Args:
        answer: answers each request.
        calls: where the calls in flight are kept, because the event loop does not keep them alive.
    """

    _transport: asyncio.Transport

    def __init__(self, answer: Answer, calls: set[asyncio.Task[None]]) -> None:
        self._answer = answer
        self._calls = calls
        self._begun = b""
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuses a connection of another process."""
        self._transport = cast("asyncio.Transport", transport)
        pid = _process_of(transport.get_extra_info("socket"))
        if pid != os.getpid():
            _log.warning("hop_refused", pid=pid)
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Answers a request once its head is complete."""
        if self._begun:
            data = self._begun + data
        if not data.endswith(_END):
            self._begun = data
            return
        self._begun = b""
        self._calls.add(self._loop.create_task(self._respond(data, self._loop.time())))

    async def _respond(self, head: bytes, arrived_s: float) -> None:
        try:
            response = await self._answer(head, arrived_s)
        except Exception:  # noqa: BLE001 - a defect: Envoy gets a status, and the traceback goes to the log
            _log.exception("call_failed", method="check")
            response = _DEFECT
        self._transport.write(response)
        self._calls.discard(asyncio.current_task())


def _process_of(connection: socket.socket) -> int:
    """The process at the other end."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid
