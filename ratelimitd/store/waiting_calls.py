"""Calls that wait for a connection, each for a limited time, and are sent in the order in which they came."""

import asyncio
from collections import deque

from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.wire import ReplyCallback, Wire


class WaitingCalls:
    """The calls of a link that has no connection yet.

    Args:
        silence_s: how long a call waits, in seconds.
    """

    def __init__(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._calls: deque[tuple[bytes, ReplyCallback, asyncio.TimerHandle]] = deque()

    def add(self, packed: bytes, callback: ReplyCallback) -> None:
        """Lets a packed command wait. If it waits for too long, `callback` gets an error."""
        timer = asyncio.get_running_loop().call_later(self._silence_s, self._give_up_first)
        self._calls.append((packed, callback, timer))

    def release(self, wire: Wire | None, reason: str) -> None:
        """Sends the calls on a connection, or fails them with the reason why there is none."""
        calls, self._calls = self._calls, deque()
        for packed, callback, timer in calls:
            timer.cancel()
            if wire is not None:
                wire.send(packed, callback)
            else:
                callback(NotConnectedError(reason))

    def _give_up_first(self) -> None:
        """Fails the call that waits longest. All calls wait equally long."""
        _, callback, _ = self._calls.popleft()
        callback(NotConnectedError(f"no connection within {self._silence_s * 1000:g} ms"))
