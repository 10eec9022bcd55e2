"""Collect decisions that arrive while calls are in flight, and send them together in the next call.

No timer delays a call. The callers of one event-loop turn go into the same call while it has room; a single
caller goes in the next turn. A caller that gives up before its call starts is not part of it, so it costs no
token.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import BatchAnswer, BatchLimiter, Limiter
from ratelimitd.errors import (
    StoreAwayError,
    StoreError,
    StoreOverloadError,
    StoreRedirectError,
    StoreTimeoutError,
)
from ratelimitd.limiter.breaker import Breaker, is_answer
from ratelimitd.limiter.outage_log import OutageLog
from ratelimitd.settings import MAX_BATCH, MAX_IN_FLIGHT
from ratelimitd.telemetry.store_calls import StoreCalls

MAX_WAITING = 4096
"""Callers that may wait; beyond that none could be answered in time anyway."""

GRACE_TURNS = 2
"""Turns of the event loop by which an expired deadline is delayed.

After a stall of the loop its timers may run before the data that has arrived meanwhile. That data is read
before the second turn is over, and reaches its callers in the turn that reads it.
"""

_Caller = tuple[TakeRequest, asyncio.Future[Outcome], float]
"""A caller's request, the future of its outcome, and its deadline in seconds of the event loop's clock."""


class Batcher:
    """Turns single requests into few, full calls of a batch limiter. Use it as an async context manager.

    Args:
        limiter: makes the calls.
        timeout_s: how long a caller waits, for its call to start and to end.
        max_batch: requests in one call, at most.
        max_in_flight: calls at once, at most.
        max_waiting: callers whose call has not started, at most.
        node: what errors call the server, if it is one of several.
        calls: where the calls and their errors are counted.
        now_ns: a monotonic clock in nanoseconds, for the durations of calls.
    """

    def __init__(
        self,
        limiter: BatchLimiter,
        *,
        timeout_s: float,
        max_batch: int = MAX_BATCH,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_waiting: int = MAX_WAITING,
        node: str = "",
        calls: StoreCalls | None = None,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._limiter = limiter
        self._timeout_s = timeout_s
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._max_waiting = max_waiting
        self._node = node
        self._calls = StoreCalls() if calls is None else calls
        self._now_ns = now_ns
        self._loop = asyncio.get_running_loop()
        self._outages = OutageLog(self._loop)
        self._breaker = Breaker(limiter, timeout_s, self._loop)
        self._silent_since_s = 0.0  # while calls are in flight: the last answer, or else the first caller
        self._waiting: deque[_Caller] = deque()
        self._unanswered: deque[_Caller] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._about_to_call = False
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the calls in flight."""
        while self._in_flight or self._about_to_call:
            self._ended.clear()
            await self._ended.wait()
        if self._timer is not None:
            self._timer.cancel()
        self._breaker.close()
        self._outages.close()

    @property
    def in_flight(self) -> int:
        """The number of callers without an outcome. It may be read in any thread.

        A count that callers keep up to date would cost each decision time, so this counts on demand.
        """
        return sum([not outcome.done() for _, outcome, _ in self._unanswered.copy()])

    def take(self, request: TakeRequest) -> Awaitable[Outcome]:
        """The outcome. Raises StoreError after the timeout.

        Raises it at once while the store is away, and when too many callers wait.
        """
        if self._breaker.is_open or len(self._waiting) >= self._max_waiting:
            raise self._refusal(request)
        outcome = self._loop.create_future()
        due_s = self._loop.time() + self._timeout_s
        caller = (request, outcome, due_s)
        self._waiting.append(caller)
        self._unanswered.append(caller)
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._expire, GRACE_TURNS)
        if not self._about_to_call:
            self._go_on()
        return outcome

    def _refusal(self, request: TakeRequest) -> StoreError:
        """Counts a decision that is not sent, and returns its error."""
        error: StoreError
        if self._breaker.is_open:
            error = StoreAwayError(self._breaker.reason)
        else:
            error = StoreOverloadError(
                f"{self._max_waiting} decisions already wait for {self._node or 'the store'}"
            )
        self.note(request, error)
        return error

    def _expire(self, turns: int) -> None:
        """Fails callers past their deadline. All have the same timeout, so one timer serves them in order."""
        if turns:
            self._loop.call_soon(self._expire, turns - 1)
            return
        now_s = self._loop.time()
        self._timer = None
        late = f"no answer within {self._timeout_s * 1000:g} ms" + (
            f" from {self._node}" if self._node else ""
        )
        while self._unanswered:
            request, outcome, due_s = self._unanswered[0]
            if not outcome.done() or outcome.cancelled():
                if due_s > now_s:
                    self._timer = self._loop.call_at(due_s, self._expire, GRACE_TURNS)
                    break
                self._fail(request, outcome, StoreTimeoutError(late))
                # A caller that has left also shows how long the store has been silent.
                if self._in_flight and self._silent_since_s <= due_s - self._timeout_s:
                    self._breaker.open(late)
            self._unanswered.popleft()

    def _call(self) -> None:
        self._about_to_call = False
        callers = self._next_batch()
        if callers:
            if not self._in_flight:
                self._silent_since_s = callers[0][2] - self._timeout_s
            self._in_flight += 1
            self._calls.batch_sizes[len(callers)] += 1
            requests = [request for request, _, _ in callers]
            started_ns = self._now_ns()
            try:
                self._limiter.submit(requests, partial(self._answered, callers, started_ns))
            except Exception as error:  # noqa: BLE001 - every caller gets it
                self._answered(callers, started_ns, error)
        self._go_on()

    def _go_on(self) -> None:
        """Schedules the next call if there is room, or wakes up `__aexit__` when nothing is left."""
        if self._waiting:
            if self._in_flight < self._max_in_flight and not self._about_to_call:
                self._about_to_call = True
                self._loop.call_soon(self._call)
        elif not self._in_flight:
            self._ended.set()

    def _next_batch(self) -> list[_Caller]:
        callers: list[_Caller] = []
        while self._waiting and len(callers) < self._max_batch:
            caller = self._waiting.popleft()
            if not caller[1].done():  # the caller gave up
                callers.append(caller)
        return callers

    def _answered(self, callers: Sequence[_Caller], started_ns: int, answer: BatchAnswer) -> None:
        self._in_flight -= 1
        if isinstance(answer, Exception):
            if is_answer(answer):
                self._silent_since_s = self._loop.time()
            for request, outcome, _ in callers:
                self._fail(request, outcome, answer)
        else:
            self._silent_since_s = self._loop.time()
            self._calls.seconds.observe(self._now_ns() - started_ns)
            for (request, outcome, _), known in zip(callers, answer, strict=True):
                if isinstance(known, Exception):
                    self._fail(request, outcome, known)
                elif not outcome.done():
                    outcome.set_result(known)
                    if self._outages.troubled:
                        self._outages.made(request, known)
        while self._unanswered and self._unanswered[0][1].done():
            self._unanswered.popleft()
        self._go_on()

    def _fail(self, request: TakeRequest, outcome: "asyncio.Future[Outcome]", error: Exception) -> None:
        if not outcome.done():
            outcome.set_exception(error)
            if not isinstance(error, StoreRedirectError):
                self.note(request, error)

    def note(self, request: TakeRequest, error: Exception) -> None:
        """Counts a decision that failed. A caller does so itself if it makes redirected calls again.

        A lease that fails is not counted, because no decision fails with it, unless the error is a defect.
        """
        if request.charge.for_lease and isinstance(error, StoreError):
            return
        self._calls.errors[error.reason if isinstance(error, StoreError) else StoreError.reason] += 1
        self._outages.failed(error)


_port: type[Limiter] = Batcher
