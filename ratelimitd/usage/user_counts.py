"""Counts the requests of each user and address in periods, in bounded memory.

On the decision path a request is an entry in a list. Every BUFFERED requests the lists are counted, which
takes less than a millisecond.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Verdict
from ratelimitd.core.ports import Observer
from ratelimitd.usage.summary import Summary, SummaryCounter

KEPT = 1024
"""Users that a summary keeps, of all and of denied requests."""

BUFFERED = 512
"""Requests that are counted together."""

LISTED = 100
"""Users that are published of each summary."""

PERIOD_S = 300.0
"""The length of a period. A longer one is a period whose end could not be published."""

_DENIED = Verdict.DENIED  # reading the enum takes 0.16 us on Python 3.11


@dataclass(frozen=True, slots=True)
class Period:
    """The requests of a period, so far or until its end.

    Args:
        number: of the period, from 1.
        began_s: its beginning, by the clock of UserCounts.
        all: all requests.
        denied: the denied ones.
    """

    number: int
    began_s: float
    all: Summary
    denied: Summary


class UserCounts:
    """Counts every decision except dry runs, in the current period.

    Args:
        now_s: a monotonic clock, in seconds.
        kept: users that a summary keeps.
        buffered: requests that are counted together.
        listed: users of each summary that are published.
    """

    def __init__(
        self,
        now_s: Callable[[], float],
        *,
        kept: int = KEPT,
        buffered: int = BUFFERED,
        listed: int = LISTED,
    ) -> None:
        self.now_s = now_s
        self._kept, self._buffered, self._listed = kept, buffered, listed
        self._all_keys: list[str] = []
        self._denied_keys: list[str] = []
        self._numbers = count(1)
        self._begin()

    def _begin(self) -> None:
        self._number = next(self._numbers)
        self._began_s = self.now_s()
        self._all, self._denied = SummaryCounter(self._kept), SummaryCounter(self._kept)

    def decided(self, decision: Decision) -> None:
        """Counts a decision."""
        if decision.dry_run:
            return
        key = decision.identity.key
        if decision.verdict is _DENIED:
            self._denied_keys.append(key)
        keys = self._all_keys
        keys.append(key)
        if len(keys) >= self._buffered:
            self._count()

    def _count(self) -> None:
        self._all.add(self._all_keys)
        self._denied.add(self._denied_keys)
        self._all_keys, self._denied_keys = [], []

    def current(self) -> Period:
        """Returns the current period so far, with the users that are published."""
        self._count()
        listed = self._listed
        return Period(self._number, self._began_s, self._all.summary(listed), self._denied.summary(listed))

    def ended(self) -> Period | None:
        """Ends the current period if it is over, and returns it."""
        if self.now_s() - self._began_s < PERIOD_S:
            return None
        period = self.current()
        self._begin()
        return period


_port: type[Observer] = UserCounts
