"""The Redis protocol on one open connection: packs commands and hands out replies in the order of the calls.

A wire is open until it ends, and it ends once: when the transport is lost, when the store is silent for too
long, sends bytes that are not a reply to a call, or reports that this connection is of no use. Every call
that still waits then fails, although the store may have carried it out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hiredis import Reader, pack_command
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import InvalidResponse, MasterDownError, ReadOnlyError

from ratelimitd.store.reply_errors import CodedParser

Argument = str | bytes | int | float

ReplyCallback = Callable[[Any], None]
"""Called once with the reply (bytes, int, None or a list of these) or with one of redis-py's errors.

A ResponseError means that the store refused the command. A ConnectionError means that no connection could
be made or that it ended; the store may have carried out the command.
"""

pack: Callable[[tuple[Argument, ...]], bytes] = pack_command  # type: ignore[assignment] # its stub allows one argument only
"""Encodes a command."""

_NO_REPLY = object()

_PING = pack(("PING",))

_WRONG_STORE = (NotConnectedError, ReadOnlyError, MasterDownError)
"""Replies of a store that loads its data, wants a password or became a replica. Its address may lead to
another store by now, which only a new connection reaches."""


class EndCallback(Protocol):
    """Called once, when a wire ends, before its calls fail."""

    def __call__(self, reason: str, *, answered: bool) -> None:
        """`answered` is true if the store ever replied on this connection."""
        ...


class Wire(asyncio.Protocol):
    """One open connection.

    Args:
        transport: a negotiated connection's. Its protocol is replaced, but still learns that it was lost.
        on_end: called when the wire ends.
        now_s: a monotonic clock, in seconds.
        silence_s: how long a call waits while nothing arrives.
    """

    def __init__(
        self, transport: asyncio.Transport, on_end: EndCallback, now_s: Callable[[], float], silence_s: float
    ) -> None:
        self._transport = transport
        self._on_end = on_end
        self._now_s = now_s
        self._silence_s = silence_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[ReplyCallback] = deque()
        self._quiet_since_s = now_s()
        self._silence_timer: asyncio.TimerHandle | None = None
        self._answered = False
        self._ended = False
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=CodedParser.parse_error, notEnoughData=_NO_REPLY
        )
        self._replaced = transport.get_protocol()
        transport.set_protocol(self)

    def send(self, packed: bytes, callback: ReplyCallback, others: Sequence[ReplyCallback] = ()) -> None:
        """Sends packed commands in one write. `others` are the callbacks of all but the first."""
        if not self._waiting:
            self._quiet_since_s = self._now_s()
        self._waiting.append(callback)
        if others:
            self._waiting += others
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_later(self._silence_s, self._check_silence)
        self._transport.write(packed)

    def check_if_idle(self, idle_s: float) -> None:
        """Sends PING if nothing was sent or received for `idle_s`. Any reply keeps the connection."""
        if not self._waiting and self._now_s() - self._quiet_since_s >= idle_s:
            self.send(_PING, _ignore)

    async def drain(self) -> None:
        """Waits until the calls so far have their replies. From now on, the end is not reported."""
        self._on_end = _ignore_end
        drained = asyncio.Event()
        self.send(_PING, lambda _reply: drained.set())  # the replies arrive in the order of the calls
        await drained.wait()

    def _check_silence(self) -> None:
        """Ends a connection that may be dead. All calls share one timer, so few calls have to set it."""
        self._silence_timer = None
        if not self._waiting:
            return
        left_s = self._quiet_since_s + self._silence_s - self._now_s()
        if left_s > 0:
            self._silence_timer = self._loop.call_later(left_s, self._check_silence)
        else:
            self.end(f"the store was silent for {self._silence_s * 1000:g} ms")

    def data_received(self, data: bytes) -> None:
        """Hands out the replies in `data`."""
        self._quiet_since_s = self._now_s()
        self._reader.feed(data)
        while not self._ended and (reply := self._next_reply()) is not _NO_REPLY:
            self._hand_out(reply)

    def _next_reply(self) -> object:
        try:
            return self._reader.gets()
        except (InvalidResponse, ValueError) as error:  # redis-py raises ValueError for a malformed MOVED
            self.end(f"the store sent bytes that are not a reply: {error}")
            return _NO_REPLY

    def _hand_out(self, reply: object) -> None:
        if not self._waiting:
            self.end("the store sent a reply that no call waits for")
            return
        callback = self._waiting.popleft()
        if isinstance(reply, _WRONG_STORE):
            self.end(str(reply))
        else:
            self._answered = True
        callback(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the wire: the transport is closed."""
        self.end(f"the connection broke: {exc}" if exc else "the store closed the connection")
        self._replaced.connection_lost(exc)

    def end(self, reason: str) -> None:
        """Closes the connection and fails the calls in flight, which the store may have carried out."""
        if self._ended:
            return
        self._ended = True
        if self._silence_timer is not None:
            self._silence_timer.cancel()
        self._transport.abort()
        self._on_end(reason, answered=self._answered)
        waiting, self._waiting = self._waiting, deque()
        for callback in waiting:
            callback(NotConnectedError(reason))


def _ignore_end(reason: str, *, answered: bool) -> None:
    """Does nothing at the end of a wire."""


def _ignore(_reply: object) -> None:
    """Does nothing with a reply."""
