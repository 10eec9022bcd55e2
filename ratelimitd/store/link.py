"""The connection of the hot path. A caller gets the reply to its own call or an error; no call is sent twice.

redis-py connects and negotiates: TLS, AUTH, SELECT, the client's name. Then its transport is taken over by a
protocol that only packs calls and hands out replies, in the order of the calls. redis-py has no public name
for the transport, so one private attribute is read; a release without it could not connect, and would say so.

Nothing bounds the bytes that wait to be written, because the callers do: a batcher makes two calls at a time,
and a connection on which one gives up after STALL_S of silence is closed with all that it holds.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from hiredis import Reader, pack_command
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import InvalidResponse, ReadOnlyError

from ratelimitd.store.client import new_connection

STALL_S = 0.5
"""The store's silence after which a caller that gives up takes the connection with it, which may be dead.

Less than the deadline of any call, so a dead connection costs one deadline.
"""

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
"""After an attempt that got no answer, doubling. One that had answered is replaced without a pause."""

Argument = str | bytes | int | float

_NO_REPLY = object()


class _Ended(Protocol):
    def __call__(self, reason: str, *, answered: bool) -> None: ...


class _Wire(asyncio.Protocol):
    """One open connection. It ends once, and every call on it then fails.

    Args:
        transport: is taken over from the protocol that it has, which is still told when it is lost.
        ended: is told why it ended, and whether it had ever answered.
        now_s: a clock in seconds that never steps.
    """

    def __init__(self, transport: asyncio.Transport, ended: _Ended, now_s: Callable[[], float]) -> None:
        self._transport = transport
        self._ended = ended
        self._now_s = now_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._quiet_since_s = 0.0
        self._answered = False
        self._over = False
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NO_REPLY
        )
        self._before = transport.get_protocol()
        transport.set_protocol(self)

    def send(self, packed: bytes) -> asyncio.Future[Any]:
        """What will hold the reply. One that is cancelled keeps its place in the order."""
        if not self._waiting:
            self._quiet_since_s = self._now_s()
        reply = self._loop.create_future()
        self._waiting.append(reply)
        self._transport.write(packed)
        return reply

    def given_up(self) -> None:
        """A caller left. After a long silence nothing may ever come any more."""
        if self._waiting and self._now_s() - self._quiet_since_s >= STALL_S:
            self.end(f"the store was silent for {STALL_S * 1000:g} ms")

    def data_received(self, data: bytes) -> None:
        """Hands out the replies. What is no reply to anything ends the connection."""
        self._quiet_since_s = self._now_s()
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _NO_REPLY:
                self._hand_out(reply)
        except (InvalidResponse, ValueError) as error:  # the latter is redis-py's, for a malformed MOVED
            self.end(f"the store does not speak its protocol: {error}")

    def _hand_out(self, reply: object) -> None:
        if not self._waiting:
            self.end("the store sent a reply to no call")
            return
        caller = self._waiting.popleft()
        if not caller.done():
            if isinstance(reply, Exception):
                caller.set_exception(reply)
            else:
                caller.set_result(reply)
        if isinstance(reply, NotConnectedError | ReadOnlyError):
            # It is loading, wants a password or became a replica: its name may lead to another store by now.
            self.end(str(reply))
        else:
            self._answered = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.end(f"the connection broke: {exc}" if exc else "the store closed the connection")
        self._before.connection_lost(exc)

    def end(self, reason: str) -> None:
        """Closes the connection. Calls in flight fail; the store may have carried them out."""
        if self._over:
            return
        self._over = True
        for caller in self._waiting:
            if not caller.done():
                caller.set_exception(NotConnectedError(reason))
        self._transport.abort()
        self._ended(reason, answered=self._answered)


class Link:
    """One connection to the store at `url`. Use it as an async context manager.

    It connects when first used, and again after a failure, so a store may come later. `now_s` is a clock in
    seconds that never steps.
    """

    def __init__(self, url: str, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._connection = new_connection(url)
        self._now_s = now_s
        self._wire: _Wire | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._reason = ""
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def execute_command(self, *arguments: Argument) -> Any:
        """The store's reply to one command: bytes, int, None, or a list of these.

        Waits as long as the caller does. Raises redis-py's errors: ResponseError when the store refuses,
        ConnectionError when there is no connection, or none any more; the store may have carried it out then.
        """
        packed = pack_command(arguments)  # type: ignore[arg-type] # its stub says: a tuple of one
        wire = self._wire or await self._connected()
        reply = wire.send(packed)
        try:
            return await reply
        except asyncio.CancelledError:
            wire.given_up()
            raise

    async def aclose(self) -> None:
        """Closes the connection for good. Calls in flight fail."""
        self._closed, self._reason = True, "the link is closed"
        if self._attempt:
            self._attempt.cancel()
            await asyncio.wait((self._attempt,))
        if self._wire:
            self._wire.end(self._reason)
        await self._connection.disconnect()

    async def _connected(self) -> _Wire:
        """The connection, by one attempt for all who want it. It goes on when they give up."""
        if self._attempt is None:
            if self._closed or self._now_s() < self._retry_at_s:
                raise NotConnectedError(self._reason)
            self._attempt = asyncio.create_task(self._connect())
        await asyncio.wait((self._attempt,))
        if self._wire is None:
            raise NotConnectedError(self._reason)
        return self._wire

    async def _connect(self) -> None:
        """One attempt. redis-py bounds each of its steps: 5 s, unless the URL says otherwise."""
        connection: Any = self._connection
        try:
            await connection.disconnect(nowait=True)  # it may not have noticed the end of the last one
            await connection.connect()
            transport = connection._writer.transport  # noqa: SLF001 - see the module's docstring
            if transport.is_closing() or await connection.can_read():
                self._failed("the store left, or said more than it was asked", answered=False)
            else:
                self._wire = _Wire(transport, self._failed, self._now_s)
        except Exception as error:  # noqa: BLE001 - the callers wait for it, whatever it is
            self._failed(str(error), answered=False)
        finally:
            self._attempt = None

    def _failed(self, reason: str, *, answered: bool) -> None:
        self._wire = None
        self._reason = reason
        self._pause_s = 0.0 if answered else min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
        self._retry_at_s = self._now_s() + self._pause_s
