"""Deny locally while a bucket is known to hold too little: a denial says when its bucket can pay again.

Invariant: a request denied here would also have been denied by the store at the same instant. A denial spends
nothing, and other requests only lower a bucket, so a bucket holds at most the tokens that the store counted
plus the refill since the call was sent. While that is less than a cost, the store's answer is known.

Obeying the wait of a denial once must be enough if nobody else spends. The wait is computed from the tokens
counted plus the refill since the answer was received. That is right for a bucket from which nobody can have
spent since: one with less than a token, and every narrower bucket of the same count. Any other bucket of the
request, known or not, may have been spent from, by other replicas too. If it could need a longer wait, in the
whole seconds that a client sees, the store is asked.

The wait is too long by at most the duration of the call. All this needs limits that stay equal, a local clock
that runs as fast as the store's, and buckets without a `last` in the future: denials by those are not kept.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import floor
from typing import NamedTuple

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.headers import whole_seconds
from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import Limiter

TRUST_US = 1_000_000
"""How long after its call was sent a denial is used. Then the store is asked again: one call per second and
bucket is cheap.

This bounds the effect of what a replica cannot see: a bucket deleted by hand or by a reset, a store that
failed over empty, a step of the store's clock, limits that another replica changed earlier, a suspended
machine.
"""

ROUNDING = 2
"""Microtokens by which the refill after a count may be more than computed here.

The store computes one refill from `last` until now; here it has two parts, each rounded down, which may lose
one microtoken. The other covers a double product that the store rounds up to a whole number.
"""

MAX_ENTRIES = 100_000
"""Buckets whose denials are kept: about 40 MB."""

RECOUNT_US = 10_000
"""How long a computed denial is reused unchanged, if it holds that long; `retry-after` is too long by at most
this. Computing it is most of the work of a repeat denial.
"""


SMALLEST_COST = MICRO
"""Microtokens that a request takes at least, for costs are whole tokens. A bucket with less loses nothing."""

SPENT_AT_ONCE = 1000 * MICRO
SPENT_PER_US = MICRO
"""Microtokens that others can have taken from a bucket since its count, at most: 1000 tokens and one more per
microsecond, which is more than a store can do. Without this bound, a user whom a narrow bucket denies would
cost a call per denial, only because a wide bucket that refills slowly could have been emptied.
"""


MAX_CHARGES = 4096
"""Charges whose longest waits are kept; the least recently used are dropped first."""


class _Reusable(NamedTuple):
    """A computed denial: the request it was for, and until when (us) it is reused."""

    charge: Charge
    keys: tuple[str, ...]
    until_us: int
    outcome: Outcome


class _Denial(NamedTuple):
    """The microtokens of one bucket, which the store counted between two local instants (us).

    Until `unspent_until_us` nobody can have spent from it since the count: it, or a wider bucket of the same
    count, holds less than any request takes. Whoever spends from a bucket also spends from the wider ones.
    """

    limit: Limit
    tokens: int
    sent_us: int
    received_us: int
    unspent_until_us: int

    def at_most(self, now_us: int) -> int:
        """Microtokens that the bucket cannot exceed."""
        refilled = floor((now_us - self.sent_us) * self.limit.refill_rate)
        return min(self.limit.capacity_micro, self.tokens + refilled + ROUNDING)

    def unspent(self, now_us: int) -> int:
        """Microtokens that the bucket has at least, if nobody has spent since the count."""
        refilled = floor((now_us - self.received_us) * self.limit.refill_rate)
        return min(self.limit.capacity_micro, self.tokens + refilled)

    def at_least(self, now_us: int) -> int:
        """Microtokens that the bucket has at least, whatever others have spent."""
        unspent = self.unspent(now_us)
        if now_us < self.unspent_until_us:
            return unspent
        return max(0, unspent - SPENT_AT_ONCE - SPENT_PER_US * (now_us - self.sent_us))


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
        self._denials: OrderedDict[str, _Denial] = OrderedDict()
        self._reusable: dict[str, _Reusable] = {}  # by the last key that can deny

    def clear(self) -> None:
        """Drops every denial, also one that is in flight: for new limits, and after a bucket's reset."""
        self._reusable.clear()
        self._denials = OrderedDict()  # a call in flight writes to the dictionary that is dropped here

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. A local denial has None for a tier whose tokens are not known.

        Raises the StoreError of the wrapped limiter.
        """
        sent_us = self._now_us()
        outcome = self._denied(request, sent_us)
        if outcome is None:
            denials = self._denials
            outcome = await self._limiter.take(request)
            if not outcome.allowed and not outcome.refill_withheld:
                self._remember(denials, request, outcome, sent_us)
        return outcome

    def _denied(self, request: TakeRequest, now_us: int) -> Outcome | None:
        """The denial, when one of the request's buckets is known to hold too little; else None."""
        charge, keys, _ = request
        denials = self._denials
        for key in keys:
            if key in denials:
                break
        else:
            return None
        reusable = self._reusable.get(keys[len(charge.limits) - 1])
        if reusable and now_us < reusable.until_us and reusable.charge is charge and reusable.keys == keys:
            return reusable.outcome
        return self._computed(charge, keys, now_us)

    def _computed(self, charge: Charge, keys: tuple[str, ...], now_us: int) -> Outcome | None:
        """The denial from the tokens now, or None. One that holds long enough is kept for reuse."""
        denying: _Denial | None = None
        known: list[_Denial | None] = []
        tokens: list[int | None] = []
        for key, limit in zip(keys, charge.limits, strict=False):  # those in shadow, at the end, cannot deny
            denial = self._denials.get(key)
            if denial is None or denial.limit != limit or now_us - denial.sent_us > TRUST_US:
                known.append(None)
                tokens.append(None)
                continue
            self._denials.move_to_end(key)
            if denial.at_most(now_us) < charge.cost:
                denying = denial
            known.append(denial)
            tokens.append(denial.unspent(now_us))
        until_us = now_us + RECOUNT_US
        if denying is None or not _is_enough(charge, known, tokens, until_us):
            return None
        outcome = Outcome(False, tuple(tokens))  # noqa: FBT003 - the field `allowed`
        if until_us - denying.sent_us <= TRUST_US and denying.at_most(until_us) < charge.cost:
            if len(self._reusable) >= self._max_entries:
                self._reusable.clear()
            self._reusable[keys[len(charge.limits) - 1]] = _Reusable(charge, keys, until_us, outcome)
        return outcome

    def _remember(
        self, denials: OrderedDict[str, _Denial], request: TakeRequest, outcome: Outcome, sent_us: int
    ) -> None:
        """Keeps the tokens that a denial reports, in the `denials` of when its request was sent."""
        received_us = self._now_us()
        self._reusable.clear()  # they may have been computed from older tokens
        unspent_until_us = sent_us
        for key, limit, tokens in zip(request.keys, request.charge.limits, outcome.tokens, strict=False):
            if tokens is not None:
                refills_us = wait_us(SMALLEST_COST - ROUNDING - tokens, limit.refill_rate)
                unspent_until_us = max(unspent_until_us, sent_us + refills_us)
                denials[key] = _Denial(limit, tokens, sent_us, received_us, unspent_until_us)
                denials.move_to_end(key)
                if len(denials) > self._max_entries:
                    denials.popitem(last=False)


def _is_enough(
    charge: Charge, known: Sequence[_Denial | None], tokens: Sequence[int | None], until_us: int
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
        or (denial is not None and _wait_s(cost - denial.at_least(until_us), limit) <= wait_s)
        for longest, denial, limit in zip(longest_s, known, charge.limits, strict=True)
    )


@lru_cache(MAX_CHARGES)
def _longest_waits_s(charge: Charge) -> tuple[int, ...]:
    """The waits of empty buckets; 0 where the cost exceeds the capacity, because no wait is enough."""
    return tuple(
        [_wait_s(charge.cost, limit) if charge.cost <= limit.capacity_micro else 0 for limit in charge.limits]
    )


def _wait_s(deficit: int, limit: Limit) -> int:
    """The wait for this many microtokens, in the seconds that a client sees."""
    return whole_seconds(wait_us(deficit, limit.refill_rate))


_port: type[Limiter] = DenyCache
