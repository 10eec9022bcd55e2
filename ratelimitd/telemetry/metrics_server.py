"""The HTTP server of a replica: `/metrics` for Prometheus, `/healthz` for probes and load balancers.

It runs on the event loop of the decisions. So `/healthz` is not answered while that loop hangs. Metrics are
rendered in a thread, for at most a tenth of the time, however often clients ask.
"""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from socket import socket
from typing import NamedTuple
from urllib.parse import urlsplit

import h11
import structlog

from ratelimitd.address import TcpAddress
from ratelimitd.bounded_log import BoundedLog
from ratelimitd.telemetry.http_connections import HttpConnections, Response, sentence
from ratelimitd.telemetry.replica_metrics import CONTENT_TYPE

PAUSE = 9
"""The pause between two renderings, as a multiple of the time that the first one took."""

_BACKLOG = 16
"""asyncio accepts this many connections in a row; each takes a file descriptor until the oldest close."""

_COMPRESSION = 1
"""The fastest level of gzip; it makes metrics about ten times smaller."""

Exposition = Callable[[], bytes]
"""Returns the metrics in the text format of Prometheus. It is called in a thread."""


@asynccontextmanager
async def serve_metrics(
    address: TcpAddress | None, sockets: Sequence[socket], exposition: Exposition
) -> AsyncIterator["MetricsServer"]:
    """Serves `/metrics` and `/healthz` on these sockets until the end of the block; without any, nothing.

    Args:
        address: what the sockets stand for; its port may be 0.
        sockets: listen on the same port. They are closed at the end.
        exposition: see Exposition.
    """
    renderings = _Renderings(exposition)
    server = MetricsServer(renderings.fresh)
    connections = HttpConnections(server.answer)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(renderings.close)
        stack.push_async_callback(connections.close)
        for one in sockets:
            listening = await loop.create_server(connections, sock=one, backlog=_BACKLOG)
            stack.callback(listening.close)
        if address is not None and sockets:
            bound = TcpAddress(address.host, sockets[0].getsockname()[1])
            structlog.get_logger("ratelimitd").info("metrics_listening", address=str(bound))
        yield server


class MetricsServer:
    """Answers the requests. Its health is `ok` until `leave`."""

    def __init__(self, fresh: "Callable[[], Awaitable[_Rendered]]") -> None:
        self._fresh = fresh
        self._log = BoundedLog("ratelimitd")
        self._status = "ok"

    def leave(self) -> None:
        """Makes `/healthz` answer 503 from now on."""
        self._status = "leaving"

    async def answer(self, request: h11.Request) -> Response:
        """Returns the response to a request."""
        path = _path(request.target)
        if path not in {"/metrics", "/healthz"}:
            return sentence(HTTPStatus.NOT_FOUND, "unknown path; expected /metrics or /healthz")
        if request.method not in {b"GET", b"HEAD"}:
            return sentence(HTTPStatus.METHOD_NOT_ALLOWED, "use GET or HEAD", ("allow", "GET, HEAD"))
        return self._health() if path == "/healthz" else await self._metrics(request)

    def _health(self) -> Response:
        status = HTTPStatus.OK if self._status == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        body = json.dumps({"status": self._status}, separators=(",", ":"))
        return Response(status, body.encode(), [("content-type", "application/json")])

    async def _metrics(self, request: h11.Request) -> Response:
        headers = [("content-type", CONTENT_TYPE), ("vary", "accept-encoding")]
        try:
            rendered = await self._fresh()
        except Exception:  # noqa: BLE001 - a defect: the traceback goes to the log
            self._log.exception("metrics_failed")
            defect = "internal error; see metrics_failed in the log of ratelimitd"
            return sentence(HTTPStatus.INTERNAL_SERVER_ERROR, defect)
        if _accepts_gzip(request.headers):
            return Response(HTTPStatus.OK, rendered.compressed, [*headers, ("content-encoding", "gzip")])
        return Response(HTTPStatus.OK, rendered.plain, headers)


class _Rendered(NamedTuple):
    plain: bytes
    compressed: bytes


class _Renderings:
    """Renders metrics for the requests that wait for them, all at once."""

    def __init__(self, exposition: Exposition) -> None:
        self._exposition = exposition
        self._next: asyncio.Task[_Rendered] | None = None
        self._tasks: set[asyncio.Task[_Rendered]] = set()
        self._rendering = asyncio.Lock()
        self._not_before_s = 0.0

    async def fresh(self) -> _Rendered:
        """Returns metrics that were read after this call began."""
        if self._next is None:
            self._next = asyncio.create_task(self._render())
            self._tasks.add(self._next)
            self._next.add_done_callback(self._ended)
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancels the renderings; a thread that renders is left to end by itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[_Rendered]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it is handled where it is awaited; otherwise asyncio may log it as well

    async def _render(self) -> _Rendered:
        loop = asyncio.get_running_loop()
        async with self._rendering:
            await asyncio.sleep(self._not_before_s - loop.time())
            self._next = None  # requests that arrive from now on wait for the next rendering
            began_s = loop.time()
            try:
                return await asyncio.to_thread(_rendered, self._exposition)
            finally:
                self._not_before_s = loop.time() + PAUSE * (loop.time() - began_s)


def _rendered(exposition: Exposition) -> _Rendered:
    plain = exposition()
    return _Rendered(plain, gzip.compress(plain, _COMPRESSION))


def _path(target: bytes) -> str:
    """The path of a request target, which may be a whole URL."""
    try:
        return urlsplit(target.decode("latin-1")).path
    except ValueError:
        return ""


def _accepts_gzip(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    codings = b",".join(value for name, value in headers if name == b"accept-encoding").lower()
    for coding in codings.split(b","):
        name, _, parameters = coding.partition(b";")
        if name.strip() == b"gzip":
            return parameters.replace(b" ", b"").rstrip(b"0.") != b"q="
    return False
