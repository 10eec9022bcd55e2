"""Generator of load: a process that sends HTTP/1.1 requests at a fixed rate.

The load is open: a request is sent when it is due, also while earlier ones have no response. A slow service
therefore meets a growing queue, as from real clients. The command line is a `LoadSpec` as JSON. Each request
becomes a line on standard output, the fields of a `Record`. The end of standard input ends the load.
"""

import asyncio
import json
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import count

from drills.policy import user
from drills.records import NO_ANSWER

_TICK_S = 0.002
_OPENING_AT_ONCE = 200


@dataclass(frozen=True)
class LoadSpec:
    """The load to send.

    Args:
        host: address of Envoy.
        port: port of Envoy.
        rate: requests per second.
        warm: connections to open before the first request; all of them are used in turn.
        max_connections: connections at once. A request that is due while all are busy waits for one.
        timeout_s: how long after it was due a request is given up.
    """

    host: str
    port: int
    rate: float
    warm: int = 1
    max_connections: int = 2000
    timeout_s: float = 5.0


class Request:
    """A request under way."""

    __slots__ = ("connection", "due_s", "ended", "sent_s", "user")

    def __init__(self, name: str, due_s: float) -> None:
        self.user, self.due_s, self.sent_s = name, due_s, due_s
        self.ended = False
        self.connection: Connection | None = None

    def end(self, status: int) -> None:
        """Writes the record, unless that has happened."""
        if not self.ended:
            self.ended = True
            now_s = time.monotonic()
            sys.stdout.write(f"{self.due_s:.6f} {self.sent_s:.6f} {now_s:.6f} {self.user} {status}\n")


class Connection(asyncio.Protocol):
    """A connection with at most one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self.transport: asyncio.Transport | None = None
        self.request: Request | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self.transport = transport  # type: ignore[assignment] # of a TCP connection

    def send(self, request: Request) -> None:
        """Sends the request."""
        assert self.transport is not None  # noqa: S101 - for mypy: only open connections are idle
        self.request, request.connection = request, self
        request.sent_s = time.monotonic()
        self.transport.write(
            b"GET /api/x HTTP/1.1\r\nhost: drill\r\nx-user-id: %b\r\n\r\n" % request.user.encode()
        )

    def data_received(self, data: bytes) -> None:
        """Ends the request once its response is complete."""
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found or len(body) < _content_length(head):
            return
        self._received = b""
        request, self.request = self.request, None
        if request is not None:
            request.end(int(head[9:12]))
        self._load.idle(self, reusable=b"connection: close" not in head)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Ends the request without a response."""
        if self.request is not None:
            self.request.end(NO_ANSWER)
        self._load.lost(self)


def _content_length(head: bytes) -> int:
    _, found, rest = head.partition(b"content-length: ")
    return int(rest.partition(b"\r\n")[0]) if found else 0


class Load:
    """Sends the requests of a spec."""

    def __init__(self, spec: LoadSpec) -> None:
        self._spec = spec
        self._idle: dict[Connection, None] = {}  # in the order of their last use
        self._due: deque[Request] = deque()
        self._under_way: deque[Request] = deque()
        self._connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, ended: asyncio.Event) -> None:
        """Sends requests until `ended` is set, then waits for the responses."""
        for first in range(0, self._spec.warm, _OPENING_AT_ONCE):
            size = min(_OPENING_AT_ONCE, self._spec.warm - first)
            await asyncio.gather(*(self._open() for _ in range(size)))
        began_s, numbers = time.monotonic(), count()
        sent = 0
        while not ended.is_set():
            now_s = time.monotonic()
            while sent < (now_s - began_s) * self._spec.rate:
                self._under_way.append(
                    request := Request(user(next(numbers)), began_s + sent / self._spec.rate)
                )
                self._due.append(request)
                sent += 1
            self._send_due()
            self._give_up(now_s)
            sys.stdout.flush()
            await asyncio.sleep(_TICK_S)
        while any(not request.ended for request in self._under_way):
            self._give_up(time.monotonic())
            await asyncio.sleep(_TICK_S)

    def idle(self, connection: Connection, *, reusable: bool) -> None:
        """Takes a connection back after a response."""
        if connection.transport is None or connection.transport.is_closing():
            return
        if reusable:
            self._idle[connection] = None
            self._send_due()
        else:
            connection.transport.close()

    def lost(self, connection: Connection) -> None:
        """Forgets a connection that has ended."""
        self._connections -= 1
        self._idle.pop(connection, None)

    def _send_due(self) -> None:
        while self._due:
            if self._due[0].ended:
                self._due.popleft()
            elif self._idle:
                connection = next(iter(self._idle))
                del self._idle[connection]
                connection.send(self._due.popleft())
            else:
                wanted = min(len(self._due) - len(self._tasks), _OPENING_AT_ONCE - len(self._tasks))
                for _ in range(min(wanted, self._spec.max_connections - self._connections)):
                    task = asyncio.get_running_loop().create_task(self._open())
                    self._tasks.add(task)
                    task.add_done_callback(self._opened)
                return

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._send_due()

    async def _open(self) -> None:
        self._connections += 1
        try:
            async with asyncio.timeout(self._spec.timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self), self._spec.host, self._spec.port
                )
        except (OSError, TimeoutError):
            self._connections -= 1
            return
        self._idle[connection] = None

    def _give_up(self, now_s: float) -> None:
        while self._under_way:
            request = self._under_way[0]
            if not request.ended:
                if now_s - request.due_s < self._spec.timeout_s:
                    return
                request.end(NO_ANSWER)
                if request.connection is not None and request.connection.transport is not None:
                    request.connection.transport.abort()
            self._under_way.popleft()


async def main() -> None:
    """Runs until standard input ends."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await Load(LoadSpec(**json.loads(sys.argv[1]))).run(ended)
    loop.remove_reader(sys.stdin.fileno())
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
