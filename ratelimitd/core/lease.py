"""Leases: tokens that a replica takes from a bucket in one call and spends by itself, for a short time.

Law: with or without leases, a bucket admits a cost of at most capacity + refill_rate * t in any window of t
seconds. A token counts as admitted when a request is charged for it.

A lease is an ordinary take of many tokens, with a capacity that is smaller by a reserve of R tokens. It can
be spent for T = R / refill_rate, from when its call was sent. Takes of single requests use the whole
capacity. Both may be mixed, in any order. The proof, for a window that begins at `a` and takes t:

- Its admissions were paid by single takes within it, and by lease takes within it or up to T earlier.
- Assume that a lease take was made up to T before `a`; the first one at d. It found at most capacity - R. So
  the takes since d are at most capacity - R + refill_rate * (t + T), which is capacity + refill_rate * t.
- Otherwise all its admissions are takes within it, and the bucket held at most its capacity at `a`.
- A key that expires counts as full. After a lease take it may expire when it is full but for R, plus a second
  (`core/bucket.py:EXPIRY_MARGIN_US`). T is at most a second, so R has refilled by then.

After a change of the limit, this holds in windows that begin at least `MAX_LEASE_US` after the last call with
the old one. That is at least the T of both limits, so no call or lease with the old one matters any more.

The store may answer at any time after the call was sent, and the clocks of store and replica may run at rates
that differ by up to a hundredth. Tokens that are not spent in time expire. They never go back to the store.

This module is pure. Amounts are whole microtokens; instants are microseconds of the replica's monotonic
clock.
"""

from bisect import insort
from math import floor
from typing import NamedTuple

from ratelimitd.core.model import MICRO, Limit

MAX_LEASE_US = 500_000
"""Longest time for which tokens are leased. It must not exceed `core/bucket.py:EXPIRY_MARGIN_US`."""

MIN_LEASE_US = 10_000
"""Shortest time for which a lease is worth its call."""

MAX_RESERVE = 8
"""The reserve is at most this part of the capacity: an eighth. Bursts are smaller by the reserve."""

CLOCK_RATES = 100
"""The part of the time by which a lease ends early, because the clocks may differ in rate: a hundredth."""

FAIR_PART = 8
"""A lease takes at most this part of what the bucket holds: an eighth. So when little is left, no replica
holds much of it, and below 16 tokens requests take their own.
"""

RENEWED_AT = 4
"""A lease is renewed when a quarter of the tokens that a replica may hold is left."""

LEAST_LEASE = 2 * MICRO
"""Microtokens that are worth a lease. A single token is taken by the request itself."""


class LeaseTerms(NamedTuple):
    """How a bucket is leased.

    Args:
        limit: the limit that lease takes are made with: the bucket's, less the reserve.
        usable_us: how long a lease can be spent, from when its call was sent.
    """

    limit: Limit
    usable_us: int


def lease_terms(limit: Limit) -> LeaseTerms | None:
    """How a bucket with this limit is leased; None if its capacity or its refill rate is too small.

    The reserve is a whole number of tokens, because a capacity is.
    """
    capacity, refill_rate = limit
    reserve = min(capacity // MAX_RESERVE, floor(refill_rate * MAX_LEASE_US / MICRO))
    lease_us = floor(reserve * MICRO / refill_rate)
    if lease_us < MIN_LEASE_US:
        return None
    return LeaseTerms(Limit(capacity - reserve, refill_rate), lease_us * (CLOCK_RATES - 1) // CLOCK_RATES)


class Leases:
    """The leased tokens of one bucket that this replica holds, and how many it should take next.

    It takes at most as many as its requests were charged within half of the time for which a lease can be
    spent. So this is the most that expires when its traffic stops. Denied requests do not count, because
    otherwise they would empty the bucket.

    Args:
        limit: the limit of the bucket.
        terms: how it is leased.

    Attributes:
        held: microtokens at hand; the expired ones among them are found by the next `spend`.
        level: microtokens that the store counted last in the bucket.
    """

    def __init__(self, limit: Limit, terms: LeaseTerms) -> None:
        self.limit = limit
        self.terms = terms
        self.held = 0
        self.level = terms.limit.capacity_micro
        self._leases: list[tuple[int, int]] = []  # the end of a lease and what is left of it, oldest first
        self._half_us = terms.usable_us // 2
        self._half_began_us = 0
        self._charged = self._charged_before = 0
        self._asked = False
        self._next_ask_us = 0

    def spend(self, cost: int, now_us: int) -> int | None:
        """Spends the cost, above 0, of a request. Returns until when it can be given back.

        Returns None if too few tokens are held; the request then needs a take of its own.
        """
        if not self.can_spend(cost, now_us):
            return None
        self.held -= cost
        leases = self._leases
        until_us, left = leases[0]
        while left <= cost:
            del leases[0]
            cost -= left
            if not cost:
                return until_us
            _, left = leases[0]
        leases[0] = leases[0][0], left - cost
        return until_us

    def can_spend(self, cost: int, now_us: int) -> bool:
        """Whether at least this much is held. Drops what has expired."""
        leases = self._leases
        while leases and leases[0][0] < now_us:
            self.held -= leases.pop(0)[1]
        return self.held >= cost

    def give_back(self, cost: int, until_us: int) -> None:
        """Adds tokens that a request did not need after all. They can be spent until then."""
        self.held += cost
        insort(self._leases, (until_us, cost))

    def ask(self, now_us: int) -> int:
        """Microtokens that should be leased now; 0 if none.

        After any other answer, `granted`, `refused` or `failed` must be called.
        """
        target = max(self._charged, self._charged_before)
        if self._asked or self.held * RENEWED_AT > target or now_us < self._next_ask_us:
            return 0
        wanted = min(target - self.held, self.level // FAIR_PART)
        if wanted < LEAST_LEASE:
            return 0
        self._asked = True
        return wanted - wanted % MICRO

    def granted(self, tokens: int, sent_us: int, level: int) -> None:
        """Adds a lease whose call was sent at `sent_us`. `level` is what it left in the bucket."""
        self._asked = False
        self.counted(level)
        self.give_back(tokens, sent_us + self.terms.usable_us)

    def refused(self, level: int) -> None:
        """Notes that the bucket held only `level`."""
        self._asked = False
        self.counted(level)

    def counted(self, level: int) -> None:
        """Notes what the store counted in the bucket."""
        self.level = max(level, 0)

    def failed(self, now_us: int) -> None:
        """Notes that the store gave no answer. What it may have taken is lost. The next call must wait."""
        self._asked = False
        self._next_ask_us = now_us + self._half_us

    def charged(self, cost: int, now_us: int) -> None:
        """Counts a request that was allowed, in this half of the time of a lease."""
        since_us = now_us - self._half_began_us
        if since_us >= self._half_us:
            self._charged_before = self._charged if since_us < 2 * self._half_us else 0
            self._charged = 0
            self._half_began_us = now_us
        self._charged += cost
