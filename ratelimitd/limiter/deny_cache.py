"""A denial tells when its bucket can pay again. Until then more requests on it are denied here.

Whom this denies at an instant, the store would have denied at that instant: a denial spends nothing, and what
others spend only lowers a bucket, so it holds at most the tokens that the store counted and the refill since
the call was sent. While that is less than a cost, the answer to it is known.

The wait is told from the tokens counted and the refill since the answer came. If nobody spent meanwhile the
bucket holds at least that, so the wait is never too short, to the microtoken. It is too long by no more than
the call took.

Both need limits that stay equal, and a local clock that runs as fast as the store's.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import floor
from typing import NamedTuple

from ratelimitd.core.model import Charge, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import Limiter

TRUST_US = 1_000_000
"""How long after its call was sent a denial is used. The store is then asked again: one call per second and
bucket costs nothing.

It bounds what a replica cannot see: a bucket deleted by hand or by a reset, a store that failed over empty, a
step of the store's clock, limits that another replica changed earlier, a machine that slept.
"""

ROUNDING = 2
"""Microtokens by which the refill after a count may be more than computed here.

The store computes one refill from `last` until now; here it is in two parts, each rounded down, which may
lose one. The other is for a double product that the store's arithmetic rounds up to a whole number.
"""


RECOUNT_US = 10_000
"""How long a denial that was made here is given again as it is, if it holds so long: a wait is told longer by
no more than that. Counting anew is most of the work of denying somebody who asks again and again.
"""


class _Given(NamedTuple):
    """A denial that was made here: what it was for, and until when it is given again."""

    charge: Charge
    keys: tuple[str, ...]
    until_us: int
    outcome: Outcome


class _Denial(NamedTuple):
    """The microtokens of one bucket, counted by the store between two local instants (us)."""

    limit: Limit
    tokens: int
    sent_us: int
    received_us: int

    def at_most(self, now_us: int) -> int:
        """What the bucket cannot hold more than."""
        refilled = floor((now_us - self.sent_us) * self.limit.refill_rate)
        return min(self.limit.capacity_micro, self.tokens + refilled + ROUNDING)


def monotonic_us() -> int:
    """Microseconds on this machine's monotonic clock, from an unknown beginning."""
    return time.monotonic_ns() // 1000


class DenyCache:
    """Denies what is known to be denied and asks the limiter that it wraps about the rest.

    Args:
        limiter: is asked about everything else.
        now_us: a clock in microseconds that never steps; where it begins does not matter.
        max_entries: buckets that are remembered; beyond that the least recently used is forgotten.
    """

    def __init__(
        self, limiter: Limiter, *, now_us: Callable[[], int] = monotonic_us, max_entries: int = 100_000
    ) -> None:
        self._limiter = limiter
        self._now_us = now_us
        self._max_entries = max_entries
        self._denials: OrderedDict[str, _Denial] = OrderedDict()
        self._given: dict[str, _Given] = {}  # by the last key that can deny

    def clear(self) -> None:
        """Forgets every denial, also one that is on its way: for new limits, and after a bucket's reset."""
        self._given.clear()
        self._denials = OrderedDict()  # a call that was sent before writes to the one that nobody reads now

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. One made here has None for a tier of which nothing is known.

        Raises the wrapped limiter's StoreError when it was needed.
        """
        sent_us = self._now_us()
        outcome = self._denied(request, sent_us)
        if outcome is None:
            denials = self._denials
            outcome = await self._limiter.take(request)
            if not outcome.allowed:
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
        given = self._given.get(keys[len(charge.limits) - 1])
        if given and now_us < given.until_us and given.charge is charge and given.keys == keys:
            return given.outcome
        return self._counted(charge, keys, now_us)

    def _counted(self, charge: Charge, keys: tuple[str, ...], now_us: int) -> Outcome | None:
        """The same from the tokens as they are now. A denial that will hold is noted, to be given again."""
        denying: _Denial | None = None
        tokens: list[int | None] = []
        for key, limit in zip(keys, charge.limits, strict=False):  # those in shadow, at the end, deny nobody
            denial = self._denials.get(key)
            if denial is None or denial.limit != limit or now_us - denial.sent_us > TRUST_US:
                tokens.append(None)
                continue
            self._denials.move_to_end(key)
            if denial.at_most(now_us) < charge.cost:
                denying = denial
            at_least = denial.tokens + floor((now_us - denial.received_us) * limit.refill_rate)
            tokens.append(min(limit.capacity_micro, at_least))
        if denying is None:
            return None
        outcome = Outcome(False, tuple(tokens))  # noqa: FBT003 - a field of it
        until_us = now_us + RECOUNT_US
        if until_us - denying.sent_us <= TRUST_US and denying.at_most(until_us) < charge.cost:
            if len(self._given) >= self._max_entries:
                self._given.clear()
            self._given[keys[len(charge.limits) - 1]] = _Given(charge, keys, until_us, outcome)
        return outcome

    def _remember(
        self, denials: OrderedDict[str, _Denial], request: TakeRequest, outcome: Outcome, sent_us: int
    ) -> None:
        """Notes what a denial tells, in the `denials` of the instant at which its request was sent."""
        received_us = self._now_us()
        self._given.clear()  # it may have been counted from older numbers
        for key, limit, tokens in zip(request.keys, request.charge.limits, outcome.tokens, strict=False):
            if tokens is not None:
                denials[key] = _Denial(limit, tokens, sent_us, received_us)
                denials.move_to_end(key)
                if len(denials) > self._max_entries:
                    denials.popitem(last=False)


_port: type[Limiter] = DenyCache
