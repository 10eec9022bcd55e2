"""The connection of the hot path. Whoever calls is told its own reply or an error; no call is sent twice.

redis-py connects and negotiates: TLS, AUTH, SELECT, the client's name. Then its transport is taken over by a
protocol that only packs calls and hands out replies, in the order of the calls. redis-py has no public name
for the transport, so one private attribute is read; a release without it could not connect, and would say so.

A function is told, not a future: a task that waits for each call, and the turns of the event loop before it
goes on, were a tenth of the time of a decision that is alone.

Nothing bounds the bytes that wait to be written, because the callers do: a batcher makes few calls at a time,
and a connection on which a call waits in silence for too long is closed with all that it holds.
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

SILENCE_S = 1.0
"""How long a call waits at most for a connection, and then for a store that says nothing."""

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
"""After an attempt that got no answer, doubling. One that had answered is replaced without a pause."""

Argument = str | bytes | int | float

Done = Callable[[Any], None]
"""Is told the reply: bytes, int, None or a list of these. Or the error of redis-py that there is instead.

That is a ResponseError when the store refuses, and a ConnectionError when there is no connection, or none any
more; the store may have carried out the call then.
"""

_NO_REPLY = object()


class _Ended(Protocol):
    def __call__(self, reason: str, *, answered: bool) -> None: ...


class _Wire(asyncio.Protocol):
    """One open connection. It ends once, and every call on it then fails.

    Args:
        transport: is taken over from the protocol that it has, which is still told when it is lost.
        ended: is told why it ended, and whether it had ever answered.
        now_s: a clock in seconds that never steps.
        silence_s: how long a call waits while nothing comes.
    """

    def __init__(
        self, transport: asyncio.Transport, ended: _Ended, now_s: Callable[[], float], silence_s: float
    ) -> None:
        self._transport = transport
        self._ended = ended
        self._now_s = now_s
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Done] = deque()
        self._quiet_since_s = 0.0
        self._watch: asyncio.TimerHandle | None = None
        self._answered = False
        self._over = False
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=_NO_REPLY
        )
        self._before = transport.get_protocol()
        transport.set_protocol(self)

    def send(self, packed: bytes, done: Done) -> None:
        """Sends a call."""
        if not self._waiting:
            self._quiet_since_s = self._now_s()
        self._waiting.append(done)
        if self._watch is None:
            self._watch = self._loop.call_later(self._silence_s, self._look)
        self._transport.write(packed)

    def _look(self) -> None:
        """Ends a connection that may be dead. One timer is for all calls, so hardly any sets one."""
        self._watch = None
        if not self._waiting:
            return
        left_s = self._quiet_since_s + self._silence_s - self._now_s()
        if left_s > 0:
            self._watch = self._loop.call_later(left_s, self._look)
        else:
            self.end(f"the store was silent for {self._silence_s * 1000:g} ms")

    def data_received(self, data: bytes) -> None:
        """Hands out the replies. What is no reply to anything ends the connection."""
        self._quiet_since_s = self._now_s()
        self._reader.feed(data)
        while not self._over and (reply := self._next_reply()) is not _NO_REPLY:
            self._hand_out(reply)

    def _next_reply(self) -> object:
        try:
            return self._reader.gets()
        except (InvalidResponse, ValueError) as error:  # the latter is redis-py's, for a malformed MOVED
            self.end(f"the store does not speak its protocol: {error}")
            return _NO_REPLY

    def _hand_out(self, reply: object) -> None:
        if not self._waiting:
            self.end("the store sent a reply to no call")
            return
        done = self._waiting.popleft()
        if isinstance(reply, NotConnectedError | ReadOnlyError):
            # It is loading, wants a password or became a replica: its name may lead to another store by now.
            self.end(str(reply))
        else:
            self._answered = True
        done(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.end(f"the connection broke: {exc}" if exc else "the store closed the connection")
        self._before.connection_lost(exc)

    def end(self, reason: str) -> None:
        """Closes the connection. Calls in flight fail; the store may have carried them out."""
        if self._over:
            return
        self._over = True
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        self._ended(reason, answered=self._answered)
        waiting, self._waiting = self._waiting, deque()
        for done in waiting:
            done(NotConnectedError(reason))


class Link:
    """One connection to the store at `url`. Use it as an async context manager.

    It connects when first used, and again after a failure, so a store may come later.

    Args:
        url: as redis-py knows it.
        now_s: a clock in seconds that never steps.
        silence_s: how long a call waits at most for a connection, and then for a store that says nothing.
    """

    def __init__(
        self, url: str, *, now_s: Callable[[], float] = time.monotonic, silence_s: float = SILENCE_S
    ) -> None:
        self._connection = new_connection(url)
        self._now_s = now_s
        self._silence_s = silence_s
        self._wire: _Wire | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._waiting: list[tuple[bytes, Done]] = []
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

    def call(self, arguments: tuple[Argument, ...], done: Done) -> None:
        """Sends a command. `done` is told once, and not before this has returned."""
        packed = pack_command(arguments)  # type: ignore[arg-type] # its stub says: a tuple of one
        if self._wire is not None:
            self._wire.send(packed, done)
        elif self._attempt is None and (self._closed or self._now_s() < self._retry_at_s):
            asyncio.get_running_loop().call_soon(done, NotConnectedError(self._reason))
        else:
            self._waiting.append((packed, done))
            if self._attempt is None:
                self._attempt = asyncio.create_task(self._connect())
                self._attempt.add_done_callback(self._attempted)
                self._bound_the_wait()

    async def aclose(self) -> None:
        """Closes the connection for good. Calls in flight fail."""
        self._closed, self._reason = True, "the link is closed"
        if self._attempt:
            self._attempt.cancel()
            await asyncio.wait((self._attempt,))
        if self._wire:
            self._wire.end(self._reason)
        await self._connection.disconnect()

    async def _connect(self) -> None:
        """One attempt. redis-py bounds each of its steps: 5 s, unless the URL says otherwise.

        Those who wait for it are told before that it takes too long, and it goes on.
        """
        connection: Any = self._connection
        try:
            await connection.disconnect(nowait=True)  # it may not have noticed the end of the last one
            await connection.connect()
            transport = connection._writer.transport  # noqa: SLF001 - see the module's docstring
            if transport.is_closing() or await connection.can_read():
                self._failed("the store left, or said more than it was asked", answered=False)
            else:
                self._wire = _Wire(transport, self._failed, self._now_s, self._silence_s)
        except Exception as error:  # noqa: BLE001 - the callers wait for it, whatever it is
            self._failed(str(error), answered=False)

    def _attempted(self, _attempt: asyncio.Task[None]) -> None:
        """An attempt is over, however it ended."""
        self._patience.cancel()
        self._attempt = None
        self._go_on()

    def _bound_the_wait(self) -> None:
        self._patience = asyncio.get_running_loop().call_later(self._silence_s, self._too_long)

    def _too_long(self) -> None:
        self._reason = f"no connection within {self._silence_s * 1000:g} ms"
        self._go_on()
        self._bound_the_wait()

    def _go_on(self) -> None:
        """Sends what has waited for the connection, or tells why there is none."""
        waiting, self._waiting = self._waiting, []
        for packed, done in waiting:
            if self._wire is not None:
                self._wire.send(packed, done)
            else:
                done(NotConnectedError(self._reason))

    def _failed(self, reason: str, *, answered: bool) -> None:
        self._wire = None
        self._reason = reason
        self._pause_s = 0.0 if answered else min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
        self._retry_at_s = self._now_s() + self._pause_s
