"""What a replica counted in an interval: the difference between two readings of its counters."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.model import Verdict
from ratelimitd.telemetry.decision_counts import DecisionCounts, Series
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.usage import layout

_API_CODES = {Verdict.ALLOWED: layout.API_ALLOWED, Verdict.DENIED: layout.API_DENIED}


@dataclass(slots=True)
class Sample:
    """The counts of an interval.

    Args:
        at_s: the middle of the interval, by a monotonic clock.
        counts: by the codes of `layout`.
        apis: by the name of the API and the code.
    """

    at_s: float
    counts: Counter[str] = field(default_factory=Counter)
    apis: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "Sample") -> None:
        """Adds the counts of another sample."""
        self.counts.update(other.counts)
        self.apis.update(other.apis)


class Sampler:
    """Takes samples of the counters of a process.

    Args:
        decisions: counts decisions.
        calls: counts calls to the store.
        now_s: a monotonic clock.
    """

    def __init__(
        self, decisions: DecisionCounts, calls: StoreCalls, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._decisions = decisions
        self._calls = calls
        self._now_s = now_s
        self._began_s = now_s()
        self._decisions_before: Mapping[Series, int] = {}
        self._calls_before = [0] * len(layout.STORE_SECONDS)

    def sample(self) -> Sample:
        """Returns what was counted since the last sample, or since the start."""
        ended_s = self._now_s()
        sample = Sample(at_s=(self._began_s + ended_s) / 2)
        self._began_s = ended_s
        self._add_decisions(sample)
        calls = list(self._calls.seconds.counts)
        for code, count, before in zip(layout.STORE_SECONDS, calls, self._calls_before, strict=True):
            if count != before:
                sample.counts[code] = count - before
        self._calls_before = calls
        return sample

    def _add_decisions(self, sample: Sample) -> None:
        totals = self._decisions.totals()
        before = self._decisions_before
        for series, total in totals.items():
            count = total - before.get(series, 0)
            if count:
                outcome, tier, api, source = series
                sample.counts[layout.CODES[outcome, tier]] += count
                if source == "local":
                    sample.counts[layout.LOCAL] += count
                elif source == "degraded":
                    sample.counts[layout.DEGRADED] += count
                if outcome in _API_CODES:
                    sample.apis[api, _API_CODES[outcome]] += count
        self._decisions_before = totals
