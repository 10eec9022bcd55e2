"""The hot path's connection to the store: it connects, sends calls, and reconnects. No call is sent twice.

A factory makes each connection, so a Sentinel or a Cluster node can provide it; `store/wire.py` packs calls
and reads replies. A call takes a completion callback, not a future: a task that waits for each call, and the
extra turns of the event loop, took a tenth of the time of a decision that is alone.

Nothing bounds the bytes that wait to be written, because the callers do: a batcher makes few calls at a time,
and a connection whose store is silent for too long is closed with all its calls.

A link is always in one of five states:

    state        a call    moves to
    IDLE         waits     CONNECTING at a call
    CONNECTING   waits     OPEN when connected; BACKING_OFF when the attempt fails
    OPEN         is sent   IDLE when a connection ends that had replied; BACKING_OFF when it never had
    BACKING_OFF  fails     CONNECTING at the first call after the pause, which waits
    CLOSED       fails     no other state

`aclose` leads from every state to CLOSED.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.wire import Argument, ReplyCallback, Wire, pack

SILENCE_S = 1.0
"""How long a call waits for a connection, and then for a store that sends nothing."""

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
"""The pause after a failed attempt doubles from the first to the last of these."""


class Connection(Protocol):
    """A connection that is negotiated: authenticated, on its database, with no reply outstanding."""

    @property
    def transport(self) -> asyncio.Transport:
        """The open transport. The link replaces its protocol."""
        ...

    async def close(self) -> None:
        """Closes the transport, if it is still open, and frees what belongs to it."""
        ...


Connect = Callable[[], Awaitable[Connection]]
"""Makes a new connection. Raises any Exception when it cannot; its text is the reason that callers see.

It must bound its own time, and check the connection in the turn of the event loop in which it returns: the
link sees only what happens afterwards.
"""


class State(Enum):
    """The states of a link; the module's docstring has the table."""

    IDLE = auto()
    CONNECTING = auto()
    OPEN = auto()
    BACKING_OFF = auto()
    CLOSED = auto()


class Link:
    """One connection to a store, replaced when it ends. Use it as an async context manager.

    It connects at the first call, so the store may start later than its users.

    Args:
        connect: makes a connection; called at each attempt.
        now_s: a monotonic clock, in seconds.
        silence_s: how long a call waits for a connection, and then for a store that sends nothing.
    """

    def __init__(
        self, connect: Connect, *, now_s: Callable[[], float] = time.monotonic, silence_s: float = SILENCE_S
    ) -> None:
        self._connect = connect
        self._now_s = now_s
        self._silence_s = silence_s
        self._state = State.IDLE
        self._connection: Connection | None = None
        self._wire: Wire | None = None  # set if and only if the state is OPEN
        self._attempt: asyncio.Task[None] | None = None
        self._wait_timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[bytes, ReplyCallback]] = []
        self._pause_s = 0.0
        self._retry_at_s = 0.0
        self._reason = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def call(self, arguments: tuple[Argument, ...], callback: ReplyCallback) -> None:
        """Sends a command. `callback` is called once, and not before this method has returned."""
        packed = pack(arguments)
        if self._wire is not None:
            self._wire.send(packed, callback)
        elif self._state is State.CLOSED or self._is_pausing():
            asyncio.get_running_loop().call_soon(callback, NotConnectedError(self._reason))
        else:
            self._waiting.append((packed, callback))
            if self._state is not State.CONNECTING:
                self._start_attempt()

    async def aclose(self) -> None:
        """Closes the connection for good. Calls in flight and all later calls fail."""
        self._state, self._reason = State.CLOSED, "the link is closed"
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait((self._attempt,))
        self._release_waiting()
        if self._wire is not None:
            self._wire.end(self._reason)
        await self._disconnect()

    def _is_pausing(self) -> bool:
        return self._state is State.BACKING_OFF and self._now_s() < self._retry_at_s

    def _start_attempt(self) -> None:
        self._state = State.CONNECTING
        self._attempt = asyncio.create_task(self._try_to_connect())
        self._bound_wait()

    async def _try_to_connect(self) -> None:
        """One attempt. It may outlast the calls that wait for it."""
        try:
            await self._disconnect()
            self._connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting calls must fail
            self._disconnected(str(error), answered=False)
        else:
            if self._state is State.CONNECTING:  # it may have been closed meanwhile
                self._wire = Wire(
                    self._connection.transport, self._disconnected, self._now_s, self._silence_s
                )
                self._state = State.OPEN
        self._release_waiting()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _bound_wait(self) -> None:
        self._wait_timer = asyncio.get_running_loop().call_later(self._silence_s, self._give_up_waiting)

    def _give_up_waiting(self) -> None:
        """Fails the waiting calls while the attempt goes on."""
        self._reason = f"no connection within {self._silence_s * 1000:g} ms"
        self._release_waiting()
        self._bound_wait()

    def _release_waiting(self) -> None:
        """Sends the calls that waited for a connection, or fails them with the reason why there is none."""
        if self._wait_timer is not None:
            self._wait_timer.cancel()
        waiting, self._waiting = self._waiting, []
        for packed, callback in waiting:
            if self._wire is not None:
                self._wire.send(packed, callback)
            else:
                callback(NotConnectedError(self._reason))

    def _disconnected(self, reason: str, *, answered: bool) -> None:
        """Decides when to connect again: at the next call, or after a pause if this one never answered."""
        self._wire = None
        if self._state is State.CLOSED:
            return
        self._reason = reason
        if answered:
            self._state = State.IDLE
            self._pause_s = 0.0
        else:
            self._state = State.BACKING_OFF
            self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LAST_PAUSE_S)
            self._retry_at_s = self._now_s() + self._pause_s
