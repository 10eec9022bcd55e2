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
from collections.abc import Callable, Sequence
from math import floor
from typing import NamedTuple

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
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


class _Denial(NamedTuple):
    """The microtokens of one bucket, counted by the store between two local instants (us)."""

    limit: Limit
    tokens: int
    sent_us: int
    received_us: int


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

    def clear(self) -> None:
        """Forgets every denial, also one that is on its way: for new limits, and after a bucket's reset."""
        self._denials = OrderedDict()  # a call that was sent before writes to the one that nobody reads now

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One outcome per request, in order. One made here has None for a tier of which nothing is known.

        Raises the wrapped limiter's StoreError when at least one of the requests needed it.
        """
        sent_us = self._now_us()
        if len(requests) == 1:  # as nearly always; what follows would take 0.8 us longer
            denied = self._denied(requests[0], sent_us)
            if denied is not None:
                return [denied]
            denials = self._denials
            outcomes = await self._limiter.take(requests)
            if not outcomes[0].allowed:
                self._remember(denials, requests, outcomes, sent_us)
            return outcomes
        known = [self._denied(request, sent_us) for request in requests]
        unknown = [request for request, outcome in zip(requests, known, strict=True) if outcome is None]
        denials = self._denials
        asked = await self._limiter.take(unknown) if unknown else ()
        self._remember(denials, unknown, asked, sent_us)
        answers = iter(asked)
        return [next(answers) if outcome is None else outcome for outcome in known]

    def _denied(self, request: TakeRequest, now_us: int) -> Outcome | None:
        """The denial, when one of the request's buckets is known to hold too little; else None."""
        denials = self._denials
        for tier in request.tiers:
            if tier.key in denials:
                break
        else:
            return None
        allowed = True
        tokens: list[int | None] = []
        for _, key, limit in request.tiers:
            denial = denials.get(key)
            if denial is None or denial.limit != limit or now_us - denial.sent_us > TRUST_US:
                tokens.append(None)
                continue
            denials.move_to_end(key)
            capacity, refill_rate = limit.capacity * MICRO, limit.refill_rate
            at_most = denial.tokens + floor((now_us - denial.sent_us) * refill_rate) + ROUNDING
            at_least = denial.tokens + floor((now_us - denial.received_us) * refill_rate)
            if min(capacity, at_most) < request.cost:
                allowed = False
            tokens.append(min(capacity, at_least))
        return None if allowed else Outcome(allowed, tuple(tokens))

    def _remember(
        self,
        denials: OrderedDict[str, _Denial],
        requests: Sequence[TakeRequest],
        outcomes: Sequence[Outcome],
        sent_us: int,
    ) -> None:
        """Notes what the denied among these tell, in the `denials` of the instant at which they were sent."""
        received_us = self._now_us()
        for request, outcome in zip(requests, outcomes, strict=True):
            if outcome.allowed:
                continue
            for tier, tokens in zip(request.tiers, outcome.tokens, strict=True):
                if tokens is not None:
                    denials[tier.key] = _Denial(tier.limit, tokens, sent_us, received_us)
                    denials.move_to_end(tier.key)
                    if len(denials) > self._max_entries:
                        denials.popitem(last=False)


_port: type[Limiter] = DenyCache
