"""Simulates leases of one bucket over many replicas: exactness, waste, and takes from the bucket.

The replicas run the code of the service (`core/lease.py`), and the store the arithmetic of the script
(`core/bucket.py`). Only network and time are simulated. The same version gives the same figures everywhere.

    python -m bench.lease_simulation
"""

import heapq
import random
import sys
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from bench.table import Table, markdown
from ratelimitd.core import lease
from ratelimitd.core.bucket import Bucket, charge_buckets
from ratelimitd.core.lease import Leases, lease_terms
from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest

KEY = "rate:global"
LIMIT = Limit(10_000, 10_000.0)
REPLICAS = 100
TRIP_US = 500
"""Microseconds from a replica to the store, and back."""


class Load(NamedTuple):
    """The requests of all replicas.

    Args:
        name: for the table.
        seconds: how long the run takes.
        rate: requests per second of a replica, by its number and the second of the run.
        replicas: how many there are.
        limit: of the bucket.
    """

    name: str
    seconds: int
    rate: Callable[[int, int], float]
    replicas: int = REPLICAS
    limit: Limit = LIMIT


STEADY = Load("half of the limit", 4, lambda _replica, _second: 50)
SKEWED = Load("half of the limit, half of that at one replica", 4, lambda replica, _: 25 if replica else 2500)
FULL = Load("the limit", 4, lambda _replica, _second: 100)
OVER = Load("three times the limit", 3, lambda _replica, _second: 300)
BURSTS = Load("three times the limit for 1 s, then nothing for 2 s", 4, lambda _, s: 0 if s % 3 else 300)
MOVING = Load(
    "80 % of the limit, each second at ten other replicas", 4, lambda r, s: 0 if (r - s) % 10 else 800
)
LOADS = (STEADY, SKEWED, FULL, OVER, BURSTS, MOVING)


class Result(NamedTuple):
    """What a run counted.

    Args:
        requests: all requests.
        admitted: requests that were allowed.
        burst: the most that was admitted in a window, less its refill: at most the capacity.
        takes: calls that charged the bucket or were denied by it.
        leased: tokens that were leased.
        expired: leased tokens that nobody spent.
    """

    requests: int
    admitted: int
    burst: float
    takes: int
    leased: int
    expired: int


def arrivals(load: Load) -> list[tuple[int, int]]:
    """Returns requests as (microsecond, replica), in order, at random times."""
    chance = random.Random(1)  # noqa: S311 - it decides nothing
    times = []
    for replica in range(load.replicas):
        for second in range(load.seconds):
            rate, at_s = load.rate(replica, second), float(second)
            while rate and (at_s := at_s + chance.expovariate(rate)) < second + 1:
                times.append((int(at_s * MICRO), replica))
    return sorted(times)


class Run:
    """One run of a load, with leases or without."""

    def __init__(self, load: Load, *, leasing: bool) -> None:
        self._events: list[tuple[int, int, Callable[[int], None]]] = []
        self._order = count()
        self._bucket: dict[str, Bucket] = {}
        self._leases = self._new_leases(load) if leasing else None
        self._admitted: list[int] = []
        self._takes = self._leased = self._by_lease = 0
        self._load = load

    @staticmethod
    def _new_leases(load: Load) -> list[Leases]:
        terms = lease_terms(load.limit)
        if terms is None:
            raise ValueError(f"a bucket of {load.limit.capacity} tokens is not leased")
        return [Leases(load.limit, terms) for _ in range(load.replicas)]

    def result(self) -> Result:
        """Runs to the end."""
        requests = arrivals(self._load)
        for at_us, replica in requests:
            self._run_until(at_us)
            self._request(replica, at_us)
        self._run_until(self._load.seconds * MICRO + 4 * TRIP_US)
        expired = self._leased - self._by_lease
        return Result(len(requests), len(self._admitted), self._burst(), self._takes, self._leased, expired)

    def _run_until(self, end_us: int) -> None:
        while self._events and self._events[0][0] <= end_us:
            now_us, _, act = heapq.heappop(self._events)
            act(now_us)

    def _at(self, at_us: int, act: Callable[[int], None]) -> None:
        heapq.heappush(self._events, (at_us, next(self._order), act))

    def _request(self, replica: int, now_us: int) -> None:
        leases = None if self._leases is None else self._leases[replica]
        if leases is not None and leases.spend(MICRO, now_us) is not None:
            self._admitted.append(now_us)
            self._by_lease += 1
            self._charged(leases, now_us)
            return

        def answered(outcome: Outcome, at_us: int) -> None:
            if outcome.allowed:
                self._admitted.append(at_us - TRIP_US)
            if leases is not None:
                leases.counted(outcome.tokens[0] or 0)
                if outcome.allowed:
                    self._charged(leases, at_us)

        self._take(MICRO, self._load.limit, now_us, answered)

    def _charged(self, leases: Leases, now_us: int) -> None:
        leases.charged(MICRO, now_us)
        tokens = leases.ask(now_us)

        def answered(outcome: Outcome, _at_us: int) -> None:
            level = outcome.tokens[0] or 0
            if outcome.allowed:
                self._leased += tokens // MICRO
                leases.granted(tokens, now_us, level)
            else:
                leases.refused(level)

        if tokens:
            self._take(tokens, leases.terms.limit, now_us, answered)

    def _take(self, cost: int, limit: Limit, now_us: int, answered: Callable[[Outcome, int], None]) -> None:
        request = TakeRequest(Charge(cost, (limit,)), (KEY,))

        def decide(at_us: int) -> None:
            self._takes += 1
            outcome, changed = charge_buckets(self._bucket, request, at_us)
            self._bucket.update(changed)
            self._at(at_us + TRIP_US, lambda back_us: answered(outcome, back_us))

        self._at(now_us + TRIP_US, decide)

    def _burst(self) -> float:
        most, least = 0.0, float("inf")
        for before, at_us in enumerate(sorted(self._admitted)):
            refilled = at_us * self._load.limit.refill_rate / MICRO
            least = min(least, before - refilled)
            most = max(most, before + 1 - refilled - least)
        return most


def table(title: str, loads: tuple[Load, ...] = LOADS) -> Table:
    """The results of these loads, with the constants of `core/lease.py` as they are now."""

    def row(load: Load) -> list[str]:
        without, leasing = (Run(load, leasing=leasing).result() for leasing in (False, True))
        return [
            load.name,
            f"{without.requests / load.seconds:.0f}",
            f"{leasing.admitted / without.admitted:.2%}",
            f"{leasing.burst:.0f}",
            f"{leasing.takes / without.takes:.1%}",
            f"{leasing.expired / max(leasing.leased, 1):.1%}",
        ]

    columns = [
        "load",
        "requests/s",
        "admitted / without leases",
        "burst",
        "takes / without leases",
        "expired",
    ]
    return Table(title, columns, [row(load) for load in loads])


def with_constant(name: str, value: int, loads: tuple[Load, ...]) -> Table:
    """The results with another value of one constant of `core/lease.py`."""
    before = vars(lease)[name]
    vars(lease)[name] = value
    try:
        return table(f"{name} = {value}", loads)
    finally:
        vars(lease)[name] = before


def main() -> None:
    """Prints the tables."""
    limit = f"capacity {LIMIT.capacity}, {LIMIT.refill_rate:.0f} tokens/s"
    tables = [table(f"{REPLICAS} replicas, {limit}")]
    some = (STEADY, FULL, BURSTS)
    tables += [with_constant("MAX_RESERVE", part, some) for part in (4, 32)]
    sys.stdout.write("\n".join(map(markdown, tables)))


if __name__ == "__main__":
    main()
