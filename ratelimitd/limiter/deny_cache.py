"""Deny locally while a bucket is known to hold too little.

Invariant: a request denied here would also have been denied by the store at the same instant. The store's
answer is known while the most that one of the request's buckets can hold is less than the cost.

Obeying the wait of a denial once must be enough if nobody else spends. The wait is computed as if nobody had
spent since the count. If the least that a bucket of the request can hold, counted or not, needs a longer wait
in the whole seconds that a client sees, the store is asked.

The wait is too long by at most the duration of the call. `BucketCount` has the two bounds. Denials by buckets
with a `last` in the future are not kept.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.headers import whole_seconds
from ratelimitd.core.model import Charge, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.limiter.bucket_count import BucketCount, counts_of

TRUST_US = 1_000_000
"""How long after its call was sent a denial is used. Then the store is asked again: one call per second and
bucket is cheap.

This bounds the effect of what a replica cannot see: a bucket deleted by hand or by a reset, a store that
failed over empty, a step of the store's clock, limits that another replica changed earlier, a suspended
machine.
"""

MAX_ENTRIES = 100_000
"""Buckets whose denials are kept: about 40 MB."""

RECOUNT_US = 10_000
"""How long a computed denial is reused unchanged, if it holds that long; `retry-after` is too long by at most
this. Computing it is most of the work of a repeat denial.
"""

MAX_CHARGES = 4096
"""Charges whose longest waits are kept; the least recently used are dropped first."""


class _Reusable(NamedTuple):
    """A computed denial: the request it was for, and until when (us) it is reused."""

    charge: Charge
    keys: tuple[str, ...]
    until_us: int
    outcome: Outcome


def monotonic_us() -> int:
    """Microseconds of this machine's monotonic clock, since an unknown instant."""
    return time.monotonic_ns() // 1000


class DenyCache:
    """Denies requests that the store would deny, and passes the rest to the limiter that it wraps.

    Args:
        limiter: takes the tokens of all other requests.
        now_us: a clock in microseconds that never steps, since any instant.
        max_entries: buckets whose denials are kept; the least recently used are dropped first. An entry takes
            about 0.4 kB.
    """

    def __init__(
        self, limiter: Limiter, *, now_us: Callable[[], int] = monotonic_us, max_entries: int = MAX_ENTRIES
    ) -> None:
        self._limiter = limiter
        self._now_us = now_us
        self._max_entries = max_entries
        self._counts: OrderedDict[str, BucketCount] = OrderedDict()
        self._reusable: dict[str, _Reusable] = {}  # by the last key that can deny

    def clear(self) -> None:
        """Drops every denial, also one that is in flight: for new limits, and after a bucket's reset."""
        self._reusable.clear()
        self._counts = OrderedDict()  # a call in flight writes to the dictionary that is dropped here

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. A local denial has None for a tier whose tokens are not known.

        Raises the StoreError of the wrapped limiter.
        """
        sent_us = self._now_us()
        outcome = self._denied(request, sent_us)
        if outcome is None:
            counts = self._counts
            outcome = await self._limiter.take(request)
            if not outcome.allowed and not outcome.refill_withheld:
                self._keep(counts, request, outcome, sent_us)
        return outcome

    def _denied(self, request: TakeRequest, now_us: int) -> Outcome | None:
        """The denial, when one of the request's buckets is known to hold too little; else None."""
        charge, keys, _ = request
        counts = self._counts
        for key in keys:
            if key in counts:
                break
        else:
            return None
        reusable = self._reusable.get(keys[len(charge.limits) - 1])
        if reusable and now_us < reusable.until_us and reusable.charge is charge and reusable.keys == keys:
            return reusable.outcome
        return self._computed(charge, keys, now_us)

    def _computed(self, charge: Charge, keys: tuple[str, ...], now_us: int) -> Outcome | None:
        """The denial from the tokens now, or None. One that holds long enough is kept for reuse."""
        denying: BucketCount | None = None
        counts: list[BucketCount | None] = []
        tokens: list[int | None] = []
        for key, limit in zip(keys, charge.limits, strict=False):  # those in shadow, at the end, cannot deny
            count = self._counts.get(key)
            if count is None or count.limit != limit or now_us - count.sent_us > TRUST_US:
                counts.append(None)
                tokens.append(None)
                continue
            self._counts.move_to_end(key)
            if count.at_most(now_us) < charge.cost:
                denying = count
            counts.append(count)
            tokens.append(count.unspent(now_us))
        until_us = now_us + RECOUNT_US
        if denying is None or not _is_enough(charge, counts, tokens, until_us):
            return None
        outcome = Outcome(allowed=False, tokens=tuple(tokens), local=True)
        if until_us - denying.sent_us <= TRUST_US and denying.at_most(until_us) < charge.cost:
            if len(self._reusable) >= self._max_entries:
                self._reusable.clear()
            self._reusable[keys[len(charge.limits) - 1]] = _Reusable(charge, keys, until_us, outcome)
        return outcome

    def _keep(
        self, counts: OrderedDict[str, BucketCount], request: TakeRequest, denial: Outcome, sent_us: int
    ) -> None:
        """Keeps the counts in a denial by the store, in the `counts` of when its request was sent."""
        self._reusable.clear()  # they may have been computed from older counts
        for key, count in counts_of(request, denial, sent_us, self._now_us()):
            counts[key] = count
            counts.move_to_end(key)
            if len(counts) > self._max_entries:
                counts.popitem(last=False)


def _is_enough(
    charge: Charge, counts: Sequence[BucketCount | None], tokens: Sequence[int | None], until_us: int
) -> bool:
    """Whether the wait that follows from these tokens is enough for a denial until this instant.

    What others may have spent increases with time, so this holds at every earlier instant, too.
    """
    longest_s = _longest_waits_s(charge)
    if max(longest_s) <= 1:  # every denial has a wait of a second or more
        return True
    cost = charge.cost
    waits_s = [
        _wait_s(cost - left, limit)
        for left, limit in zip(tokens, charge.limits, strict=True)
        if left is not None
    ]
    wait_s = max(waits_s)
    return all(
        longest <= wait_s
        or (count is not None and _wait_s(cost - count.at_least(until_us), count.limit) <= wait_s)
        for longest, count in zip(longest_s, counts, strict=True)
    )


@lru_cache(MAX_CHARGES)
def _longest_waits_s(charge: Charge) -> tuple[int, ...]:
    """The waits of empty buckets. A denial has no wait where the cost exceeds a capacity, so they are 0."""
    if any(charge.cost > limit.capacity_micro for limit in charge.limits):
        return (0,) * len(charge.limits)
    return tuple([_wait_s(charge.cost, limit) for limit in charge.limits])


def _wait_s(deficit: int, limit: Limit) -> int:
    """The wait for this many microtokens, in the seconds that a client sees."""
    return whole_seconds(wait_us(deficit, limit.refill_rate))


_port: type[Limiter] = DenyCache
