"""The hot path's connection to the store: it connects, sends calls, and reconnects. No call is sent twice.

A factory makes each connection, so a Sentinel or a Cluster node can provide it; `store/wire.py` packs calls
and reads replies. A call takes a completion callback, not a future: a task that waits for each call, and the
extra turns of the event loop, took a tenth of the time of a decision that is alone.

A link connects by itself when it is entered and whenever its connection ends, so that a call rarely waits for
a connection. It sends PING on an idle connection: a store, a NAT or a load balancer closes connections that
are idle for long, and some of them do so without notice.

Nothing bounds the bytes that wait to be written, because the callers do: a batcher makes few calls at a time,
and a connection whose store is silent for too long is closed with all its calls.

A link is always in one of five states:

    state        a call    moves to
    IDLE         waits     CONNECTING when the link is entered
    CONNECTING   waits     OPEN when connected; BACKING_OFF when the attempt fails
    OPEN         is sent   CONNECTING when a connection ends that had replied; BACKING_OFF when it never had
    BACKING_OFF  fails     CONNECTING at the next attempt
    CLOSED       fails     no other state

`aclose` leads from every state to CLOSED. `lead_to` ends a connection or an attempt to the wrong server.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.process.background import cancelled
from ratelimitd.store.waiting_calls import WaitingCalls
from ratelimitd.store.wire import Argument, ReplyCallback, Wire, pack
from ratelimitd.store_url import Node

SILENCE_S = 1.0
"""How long a call waits for a connection, and then for a store that sends nothing."""

ATTEMPT_S = 2.0
"""How long an attempt to connect may take. A proxy may accept it and answer nothing until it is made anew."""

KEEPALIVE_S = 1.0
"""How long a connection is idle before it is checked: shorter than any idle timeout, which Redis counts in
whole seconds, and long enough to cost nothing."""

INTERVAL_AFTER_REPLY_S = 0.02
INTERVAL_AFTER_FAILURE_S = 0.1
"""The least time between the starts of two attempts to connect, by whether the store replied after the first.

The former is so short that calls can wait for it. It bounds the attempts at a store that replies and closes
each connection, or that refuses each write as a replica.
"""

_MOVED = "the store moved to another server"


Call = tuple[tuple[Argument, ...], ReplyCallback]
"""The arguments of a command, and the callback for its reply."""


class Connection(Protocol):
    """A connection that is negotiated: authenticated, on its database, with no reply outstanding."""

    @property
    def transport(self) -> asyncio.Transport:
        """The open transport. The link replaces its protocol."""
        ...

    @property
    def node(self) -> Node | None:
        """The address of the server, as it was located; None if it has none."""
        ...

    async def close(self) -> None:
        """Closes the transport, if it is still open, and frees what belongs to it."""
        ...


Connect = Callable[[], Awaitable[Connection]]
"""Makes a new connection. Raises any Exception when it cannot; its text is the reason that callers see.

It must check the connection in the turn of the event loop in which it returns, since the link sees only what
happens afterwards, and free what it opened when it is cancelled.
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

    The store may start later than the link.

    Args:
        connect: makes a connection; called at each attempt.
        greeting: commands that are sent first on each new connection. A refusal of one is ignored.
        now_s: a monotonic clock, in seconds.
        silence_s: how long a call waits for a connection, and then for a store that sends nothing.
        keepalive_s: how long a connection is idle before it is checked.
        attempt_s: how long an attempt to connect may take; at least twice `silence_s`.
    """

    def __init__(
        self,
        connect: Connect,
        *,
        greeting: Sequence[tuple[Argument, ...]] = (),
        now_s: Callable[[], float] = time.monotonic,
        silence_s: float = SILENCE_S,
        keepalive_s: float = KEEPALIVE_S,
        attempt_s: float = ATTEMPT_S,
    ) -> None:
        self._connect = connect
        self._greeting = [pack(command) for command in greeting]
        self._now_s = now_s
        self._silence_s = silence_s
        self._keepalive_s = keepalive_s
        self._attempt_s = max(attempt_s, 2 * silence_s)
        self._state = State.IDLE
        self._opened = 0
        self._settled = asyncio.Event()
        self._settled_by_s = 0.0
        self._connection: Connection | None = None
        self._wire: Wire | None = None  # set if and only if the state is OPEN
        self._attempt: asyncio.Task[None] | None = None
        self._attempt_at_s = float("-inf")
        self._keepalive_timer: asyncio.TimerHandle | None = None
        self._waiting = WaitingCalls(silence_s)
        self._reason = ""
        self._masters: Collection[Node] = ()
        self._deadline: asyncio.Timeout | None = None  # set while an attempt runs that may go on

    @property
    def opened(self) -> int:
        """The number of connections so far. When it grows, other connections may lead to an old store."""
        return self._opened

    @property
    def peer(self) -> object:
        """The store's address as the socket names it; None while there is no connection."""
        return None if self._connection is None else self._connection.transport.get_extra_info("peername")

    async def __aenter__(self) -> Self:
        self._settled_by_s = asyncio.get_running_loop().time() + self._silence_s
        self._connect_again(State.CONNECTING, interval_s=0)
        self._keep_alive()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def settled(self) -> None:
        """Returns once the store has answered the greeting, or the link knows that it does not.

        The latter is the case after a failed attempt, or `silence_s` after the link was entered.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._settled_by_s):
                await self._settled.wait()

    def call(self, arguments: tuple[Argument, ...], callback: ReplyCallback) -> None:
        """Sends a command. `callback` is called once, and not before this method has returned."""
        packed = pack(arguments)
        if self._wire is not None:
            self._wire.send(packed, callback)
            return
        if self._state in (State.IDLE, State.CONNECTING):
            self._waiting.add(packed, callback)
        else:
            asyncio.get_running_loop().call_soon(callback, NotConnectedError(self._reason))

    def lead_to(self, masters: Collection[Node]) -> None:
        """Connects again if the connection leads to none of these servers.

        An attempt ends as well when there are others than before: it may wait for a server that is gone.
        """
        changed, self._masters = bool(self._masters) and {*masters}.isdisjoint(self._masters), masters
        if self._wire is not None and self._connection is not None:
            if self._connection.node not in masters:
                self._wire.end(_MOVED)
        elif changed and self._deadline is not None:
            self._deadline.reschedule(asyncio.get_running_loop().time())
            self._deadline = None

    async def renew(self) -> None:
        """Replaces the open connection without failing a call: the new one is open before the old one closes.

        Does nothing while no connection is open. Raises what `connect` raises, and TimeoutError; the old
        connection is then still in use.
        """
        old_wire, old_connection = self._wire, self._connection
        if old_wire is None or old_connection is None:
            return
        async with asyncio.timeout(self._attempt_s):
            connection = await self._connect()
        if self._wire is not old_wire:  # the old one ended meanwhile, and the link connects again by itself
            await connection.close()
            return
        self._connection = connection
        self._open(connection.transport)
        try:
            await old_wire.drain()
        finally:
            old_wire.end("the connection was replaced")
            await old_connection.close()

    def call_all(self, calls: Sequence[Call]) -> None:
        """Sends commands in one write, in this order, each with its callback as in `call`."""
        if self._wire is not None:
            packed = b"".join([pack(arguments) for arguments, _ in calls])
            first, *others = [callback for _, callback in calls]
            self._wire.send(packed, first, others)
            return
        for arguments, callback in calls:
            self.call(arguments, callback)

    async def aclose(self) -> None:
        """Closes the connection for good. Calls in flight and all later calls fail."""
        self._state, self._reason = State.CLOSED, "the link is closed"
        if self._keepalive_timer is not None:
            self._keepalive_timer.cancel()
        if self._attempt is not None:
            await cancelled(self._attempt)
        self._waiting.release(self._wire, self._reason)
        if self._wire is not None:
            self._wire.end(self._reason)
        await self._disconnect()

    def _connect_again(self, state: State, interval_s: float) -> None:
        """Schedules an attempt, `interval_s` after the start of the last one. Until then it is in `state`."""
        self._state = state
        pause_s = self._attempt_at_s + interval_s - self._now_s()
        self._attempt = asyncio.create_task(self._try_to_connect(max(pause_s, 0)))

    async def _try_to_connect(self, pause_s: float) -> None:
        """One attempt, after a pause. It may outlast the calls that wait for it."""
        await asyncio.sleep(pause_s)
        self._state = State.CONNECTING
        self._attempt_at_s = self._now_s()
        try:
            await self._disconnect()
            async with asyncio.timeout(self._attempt_s) as self._deadline:
                self._connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiting calls must fail
            was_cut = self._deadline is None
            reason = str(error) or (
                _MOVED if was_cut else f"no connection within {self._attempt_s * 1000:g} ms"
            )
            self._deadline = None
            self._disconnected(reason, answered=False)
        else:
            self._deadline = None
            if self._state is State.CONNECTING:  # it may have been closed meanwhile
                self._open(self._connection.transport)
        self._waiting.release(self._wire, self._reason)

    def _open(self, transport: asyncio.Transport) -> None:
        self._wire = Wire(transport, self._disconnected, self._now_s, self._silence_s)
        self._state = State.OPEN
        self._opened += 1
        for packed in self._greeting:
            self._wire.send(packed, self._greeted)
        if not self._greeting:
            self._settled.set()

    def _greeted(self, _reply: object) -> None:
        """Notes that the store has answered. Calls also work if it refused the greeting."""
        self._settled.set()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _disconnected(self, reason: str, *, answered: bool) -> None:
        """Schedules the next attempt. `answered` is false if the store never replied on this connection."""
        self._wire = None
        if self._state is State.CLOSED:
            return
        self._reason = reason
        self._settled.set()
        if answered:
            self._connect_again(State.CONNECTING, INTERVAL_AFTER_REPLY_S)
        else:
            self._connect_again(State.BACKING_OFF, INTERVAL_AFTER_FAILURE_S)

    def _keep_alive(self) -> None:
        """Checks the connection if it is idle. One timer per link, because a timer per call is too much."""
        if self._wire is not None:
            self._wire.check_if_idle(self._keepalive_s)
        loop = asyncio.get_running_loop()
        self._keepalive_timer = loop.call_later(self._keepalive_s, self._keep_alive)
