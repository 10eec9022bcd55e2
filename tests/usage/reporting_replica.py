"""A replica without a transport: it counts what a test says, and reports when a test says so."""

from collections.abc import Mapping
from itertools import count

from redis.asyncio import Redis

from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import Verdict
from ratelimitd.core.ports import Policies
from ratelimitd.core.tiers import TierName
from ratelimitd.telemetry.decision_counts import DecisionCounts, Series
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.usage.addition import Additions
from ratelimitd.usage.global_bucket import GlobalBucket
from ratelimitd.usage.report import UsageReport
from ratelimitd.usage.sample import Sampler
from tests.core.fakes import FLAT_POLICY, FixedPolicies
from tests.example_limits import KEY

_numbers = count()


class FixedCounts(DecisionCounts):
    """Counts that a test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.set: dict[Series, int] = {}

    def totals(self) -> Mapping[Series, int]:
        return dict(self.set)


class ReportingReplica:
    """A replica whose clock, in seconds, only a test moves."""

    def __init__(
        self, client: Redis, *, policies: Policies | None = None, number: int = 7, interval_s: float = 5.0
    ) -> None:
        self.now_s = 1000.0
        self.calls = StoreCalls()
        self.counts = FixedCounts()
        self.id = f"replica-{next(_numbers)}"
        self.bucket = GlobalBucket(
            client, policies or FixedPolicies(FLAT_POLICY), KeyLayout("rate"), lambda: number, self._clock
        )
        self.usage = UsageReport(
            client,
            Additions(KEY, self.id),
            Sampler(self.counts, self.calls, self._clock),
            self.bucket,
            interval_s=interval_s,
            now_s=self._clock,
        )

    def _clock(self) -> float:
        return self.now_s

    def decide(
        self, times: int = 1, api: str = "/a", *, denied_by: TierName | None = None, local: bool = False
    ) -> None:
        """Counts decisions: allowed ones, or denied by a tier."""
        outcome = Verdict.ALLOWED if denied_by is None else Verdict.DENIED
        self.count(Series(outcome, denied_by or "", api, "local" if local else "store"), times)

    def count(self, series: Series, times: int = 1) -> None:
        """Counts decisions of a series."""
        self.counts.set[series] = self.counts.set.get(series, 0) + times

    async def report(self, after_s: float = 5.0) -> None:
        """Reports, so many seconds after the last report."""
        self.now_s += after_s
        await self.usage.report()
