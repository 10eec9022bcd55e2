"""Decisions that arrive while calls are in flight travel together in the next one. There is no timer.

The callers of one event-loop turn go into the same call while it has room; a single caller goes at once. A
caller that gives up before its call begins is not part of it, so it costs nobody a token.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Caller:
    requests: Sequence[TakeRequest]
    outcomes: asyncio.Future[Sequence[Outcome]]


class Batcher:
    """Fewer and fuller calls of the limiter that it wraps. Use it as an async context manager.

    Args:
        limiter: gets the calls.
        max_batch: requests in one call, at most.
        max_in_flight: calls at once, at most.
    """

    def __init__(
        self, limiter: Limiter, *, max_batch: int = MAX_BATCH, max_in_flight: int = MAX_IN_FLIGHT
    ) -> None:
        self._limiter = limiter
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: deque[_Caller] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the calls that are left."""
        while self._calls:
            await asyncio.wait(self._calls)

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """The wrapped limiter's outcomes. Raises StoreError, at once when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise StoreError(f"{MAX_WAITING} decisions are waiting for the store already")
        caller = _Caller(requests, asyncio.get_running_loop().create_future())
        self._waiting.append(caller)
        self._start_calls()
        return await caller.outcomes

    def _start_calls(self) -> None:
        if self._waiting and len(self._calls) < self._max_in_flight:
            call = asyncio.create_task(self._call())
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._start_calls()

    async def _call(self) -> None:
        callers = self._next_batch()
        if not callers:
            return
        try:
            outcomes = await self._limiter.take([one for caller in callers for one in caller.requests])
        except Exception as error:  # noqa: BLE001 - it is the callers' to handle, whatever it is
            for caller in callers:
                if not caller.outcomes.done():
                    caller.outcomes.set_exception(error)
            return
        at = 0
        for caller in callers:
            end = at + len(caller.requests)
            if not caller.outcomes.done():
                caller.outcomes.set_result(outcomes[at:end])
            at = end

    def _next_batch(self) -> list[_Caller]:
        callers: list[_Caller] = []
        room = self._max_batch
        while self._waiting and (not callers or len(self._waiting[0].requests) <= room):
            caller = self._waiting.popleft()
            if not caller.outcomes.done():  # it gave up
                callers.append(caller)
                room -= len(caller.requests)
        return callers


_port: type[Limiter] = Batcher
