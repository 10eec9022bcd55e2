"""Logs when decisions fail and when they no longer do, in few lines however often that changes.

    store_away        error    an outage: decisions fail, and none was made for AWAY_AFTER_S
    store_back        warning  its end: decisions are made, and none has failed for a while
    decisions_failed  warning  some decisions failed, others were made; at most two lines per minute

A store may answer reads and refuse writes: when its disk or memory is full, or when too few replicas are
connected. Denials need no write. So after a refusal only a decision that wrote shows that the store works.

The while after which an outage ends grows fourfold with each outage that soon follows another. So a store
that comes and goes causes a few lines per minute.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.errors import StoreRefusedError

AWAY_AFTER_S = 0.5
"""How long decisions fail, and none is made, before that is an outage."""

FIRST_STEADY_S = 1.0
LAST_STEADY_S = 32.0
"""How long no decision fails before an outage is over. It grows from the first to the last of these."""

STEADY_GROWTH = 4

SOON_S = 60.0
"""An outage that begins within this time of the end of another one makes the above grow."""

SUMMARY_INTERVAL_S = 30.0

TICK_S = 0.1
"""How often the state is looked at while decisions fail."""


class Timers(Protocol):
    """The part of an event loop that the log needs."""

    def time(self) -> float:
        """Returns the time of a monotonic clock, in seconds."""
        ...

    def call_later(self, delay: float, callback: Callable[[], None], /) -> asyncio.TimerHandle:
        """Calls `callback` after `delay` seconds."""
        ...


class OutageLog:
    """Counts the decisions that failed, and those that were made meanwhile.

    Args:
        timers: the event loop.
    """

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self.troubled = False
        """Whether `made` must be called. It is false unless decisions have failed lately."""
        self._log = structlog.get_logger("ratelimitd.store")
        self._timer: asyncio.TimerHandle | None = None
        self._away = False
        self._error: Exception | None = None
        self._refuses_writes = False
        self._failed = self._made = 0
        self._counting_since_s = 0.0
        self._failing_since_s: float | None = None  # since the last decision that shows that the store works
        self._failed_last_s = 0.0
        self._back_at_s = float("-inf")
        self._steady_s = FIRST_STEADY_S
        self._next_summary_s = float("-inf")

    def failed(self, error: Exception) -> None:
        """Notes that a decision failed."""
        now_s = self._timers.time()
        if not self.troubled:
            self.troubled = True
            self._count_from(now_s)
            self._next_summary_s = max(self._next_summary_s, now_s + 2 * AWAY_AFTER_S)
            self._timer = self._timers.call_later(TICK_S, self._tick)
        if self._failing_since_s is None:
            self._failing_since_s = now_s
        self._failed += 1
        self._failed_last_s = now_s
        self._error = error
        self._refuses_writes = self._refuses_writes or isinstance(error, StoreRefusedError)

    def made(self, request: TakeRequest, outcome: Outcome) -> None:
        """Notes that a decision was made by the store."""
        self._made += 1
        if not self._refuses_writes or has_written(request, outcome):
            self._failing_since_s = None
            self._refuses_writes = False

    def close(self) -> None:
        """Stops the timer."""
        if self._timer is not None:
            self._timer.cancel()

    def _count_from(self, now_s: float) -> None:
        self._failed = self._made = 0
        self._counting_since_s = now_s

    def _tick(self) -> None:
        self._look(self._timers.time())
        self._timer = self._timers.call_later(TICK_S, self._tick) if self.troubled else None

    def _look(self, now_s: float) -> None:
        failing_since_s = self._failing_since_s
        if self._away:
            if failing_since_s is None and now_s - self._failed_last_s >= self._steady_s:
                self._end(now_s)
        elif failing_since_s is not None and now_s - failing_since_s >= AWAY_AFTER_S:
            self._begin(now_s)
        elif self._failed and now_s >= self._next_summary_s:
            self._summarize(now_s)
        elif not self._failed and failing_since_s is None:
            self.troubled = False

    def _begin(self, now_s: float) -> None:
        self._away = True
        soon = now_s - self._back_at_s < SOON_S
        self._steady_s = min(STEADY_GROWTH * self._steady_s, LAST_STEADY_S) if soon else FIRST_STEADY_S
        self._log.error("store_away", reason=str(self._error), failed_calls=self._failed)

    def _end(self, now_s: float) -> None:
        """Logs the end. `away_s` counts until the last failure."""
        away_s = round(self._failed_last_s - self._counting_since_s, 1)
        self._log.warning("store_back", failed_calls=self._failed, away_s=away_s)
        self._away = self.troubled = False
        self._back_at_s = now_s
        self._count_from(now_s)

    def _summarize(self, now_s: float) -> None:
        self._log.warning(
            "decisions_failed",
            failed=self._failed,
            made=self._made,
            within_s=round(now_s - self._counting_since_s, 1),
            reason=str(self._error),
        )
        self._next_summary_s = now_s + SUMMARY_INTERVAL_S
        self._count_from(now_s)


def has_written(request: TakeRequest, outcome: Outcome) -> bool:
    """Whether the decision took tokens, so that the store has accepted a write."""
    charge = request.charge
    if request.dry_run or not charge.cost or not outcome.allowed:
        return False
    return bool(charge.limits) or outcome.shadow is None or outcome.shadow.allowed
