"""Decisions that arrive while calls are in flight travel together in the next one. There is no timer.

The callers of one event-loop turn go into the same call while it has room; a single caller goes at once. A
caller that gives up before its call begins is not part of it, so it costs nobody a token.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from types import TracebackType
from typing import Self

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError

MAX_BATCH = 64
"""Requests in one call: more would hold the store for over a millisecond at 12 us a decision."""

MAX_IN_FLIGHT = 2
"""Calls at once: one is answered while the next is on its way."""

MAX_WAITING = 4096
"""Callers that may wait; beyond that none could be answered in time anyway."""


GRACE_TURNS = 3
"""Turns of the event loop that a deadline waits once it is due.

After a stall of the loop its timers come before what has arrived meanwhile: an answer that is there is read
in the first turn, its call goes on in the second, and its callers have it before the third.
"""


_Caller = tuple[Sequence[TakeRequest], asyncio.Future[Sequence[Outcome]], float]
"""What it wants, what will hold its outcomes, and when it is due, in seconds of the event loop."""


class Batcher:
    """Fewer and fuller calls of the limiter that it wraps. Use it as an async context manager.

    Args:
        limiter: gets the calls.
        timeout_s: how long a caller waits, in its queue and for its call together.
        max_batch: requests in one call, at most.
        max_in_flight: calls at once, at most.
    """

    def __init__(
        self,
        limiter: Limiter,
        *,
        timeout_s: float,
        max_batch: int = MAX_BATCH,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self._limiter = limiter
        self._timeout_s = timeout_s
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Caller] = deque()
        self._unanswered: deque[_Caller] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the calls that are left."""
        while self._calls:
            await asyncio.wait(self._calls)
        if self._timer is not None:
            self._timer.cancel()

    def take(self, requests: Sequence[TakeRequest]) -> Awaitable[Sequence[Outcome]]:
        """The wrapped limiter's outcomes. Raises StoreError when it is late, at once when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise StoreError(f"{MAX_WAITING} decisions are waiting for the store already")
        outcomes = self._loop.create_future()
        due_s = self._loop.time() + self._timeout_s
        caller = (requests, outcomes, due_s)
        self._waiting.append(caller)
        self._unanswered.append(caller)
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._expire, GRACE_TURNS)
        if len(self._calls) < self._max_in_flight:
            self._start_call()
        return outcomes

    def _expire(self, turns: int) -> None:
        """Fails who has waited too long. All may wait equally long, so they stand in order for one timer."""
        if turns:
            self._loop.call_soon(self._expire, turns - 1)
            return
        now_s = self._loop.time()
        self._timer = None
        while self._unanswered:
            _, outcomes, due_s = self._unanswered[0]
            if not outcomes.done():
                if due_s > now_s:
                    self._timer = self._loop.call_at(due_s, self._expire, GRACE_TURNS)
                    break
                outcomes.set_exception(StoreError(f"no answer within {self._timeout_s * 1000:g} ms"))
            self._unanswered.popleft()

    def _start_call(self) -> None:
        call = self._loop.create_task(self._call())
        self._calls.add(call)
        call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if self._waiting:
            self._start_call()

    async def _call(self) -> None:
        callers = self._next_batch()
        if not callers:
            return
        try:
            answers = await self._limiter.take([one for requests, _, _ in callers for one in requests])
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle, whatever it is
            for _, outcomes, _ in callers:
                if not outcomes.done():
                    outcomes.set_exception(error)
            return
        at = 0
        for requests, outcomes, _ in callers:
            end = at + len(requests)
            if not outcomes.done():
                outcomes.set_result(answers[at:end])
            at = end
        while self._unanswered and self._unanswered[0][1].done():
            self._unanswered.popleft()

    def _next_batch(self) -> list[_Caller]:
        callers: list[_Caller] = []
        room = self._max_batch
        while self._waiting and (not callers or len(self._waiting[0][0]) <= room):
            caller = self._waiting.popleft()
            if not caller[1].done():  # it gave up
                callers.append(caller)
                room -= len(caller[0])
        return callers


_port: type[Limiter] = Batcher
