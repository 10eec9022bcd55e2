"""Takes tokens in two calls, because in a Redis Cluster the leased bucket has a slot of its own.

The leased bucket pays first. If the others then deny, or the store fails, its tokens become a lease, so that
another request can spend them. A bucket that is too small for leases, or for the cost and its reserve, cannot
keep them. For such a bucket, a dry run asks the other buckets first. The tokens are lost only if the others
deny although they could have paid a moment before.

A denial by the leased bucket also asks the others, because its wait must be enough for all of them.
"""

from functools import lru_cache

from ratelimitd.core.lease import Leases
from ratelimitd.core.model import Charge, Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError
from ratelimitd.limiter.leased_takes import (
    MAX_CHARGES,
    NOTHING,
    LeasePool,
    Parts,
    is_charged,
    parts_of,
    rest_of,
    with_leased,
)


class SplitLimiter:
    """Decides a request by takes whose keys share a slot of the cluster.

    Args:
        limiter: makes these takes.
        pool: the leases.
    """

    def __init__(self, limiter: Limiter, pool: LeasePool) -> None:
        self._limiter = limiter
        self._pool = pool

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. Raises the StoreError of the wrapped limiter."""
        charge, keys, dry_run = request
        at = charge.leased
        if at is None:
            return await self._limiter.take(request)
        parts = parts_of(charge)
        rest = rest_of(request, parts)
        limit, leases = parts.limit, None
        terms = parts.terms
        if terms is not None and charge.cost <= terms.limit.capacity_micro:
            limit = terms.limit
            if charge.cost and not dry_run:
                leases = self._pool.of(keys[at], parts.limit, terms)
        elif charge.cost and not dry_run:
            seen = await self._take(rest._replace(dry_run=True))
            if not seen.allowed:
                return with_leased(seen, parts, None)
        first = TakeRequest(_charge(charge.cost, (limit,)), (keys[at],), dry_run)
        if parts.in_shadow:
            return await self._take_shadow(first, rest, parts, leases)
        return await self._take_enforced(first, rest, parts, leases)

    async def _take_enforced(
        self, first: TakeRequest, rest: TakeRequest, parts: Parts, leases: Leases | None
    ) -> Outcome:
        sent_us = self._pool.now_us()
        paid = await self._limiter.take(first)
        if paid.allowed:
            return await self._take_rest(rest, parts, paid, leases, sent_us)
        unknown = (None,) * len(parts.rest.limits)
        try:
            seen = await self._take(rest._replace(dry_run=True))
        except StoreError:
            seen = Outcome(allowed=True, tokens=unknown)
        withheld = paid.refill_withheld or seen.refill_withheld
        return Outcome(allowed=False, tokens=paid.tokens + seen.tokens, refill_withheld=withheld)

    async def _take_shadow(
        self, first: TakeRequest, rest: TakeRequest, parts: Parts, leases: Leases | None
    ) -> Outcome:
        """If the bucket in shadow cannot pay, or is not known, all buckets in shadow stay as they are."""
        sent_us = self._pool.now_us()
        try:
            paid = await self._limiter.take(first)
        except StoreError:
            paid = None
        if paid is not None and paid.allowed:
            return await self._take_rest(rest, parts, paid, leases, sent_us)
        keys = rest.keys[: len(parts.enforced.limits)]
        outcome = await self._take(TakeRequest(parts.enforced, keys, rest.dry_run))
        if paid is None or not outcome.allowed:
            return outcome
        unknown = (None,) * len(parts.rest.shadow)
        return outcome._replace(shadow=Outcome(allowed=False, tokens=paid.tokens + unknown))

    async def _take_rest(
        self, rest: TakeRequest, parts: Parts, paid: Outcome, leases: Leases | None, sent_us: int
    ) -> Outcome:
        charged = False
        try:
            outcome = with_leased(await self._take(rest), parts, paid.tokens[0])
            charged = is_charged(outcome, parts)
        finally:
            if leases is not None and not charged:
                leases.give_back(rest.charge.cost, sent_us + leases.terms.usable_us)
                self._pool.counts.leased += rest.charge.cost
        return outcome

    async def _take(self, request: TakeRequest) -> Outcome:
        return await self._limiter.take(request) if request.keys else NOTHING


_charge = lru_cache(MAX_CHARGES)(Charge)
"""Returns the same object for equal arguments, so that a batch of such takes sends it once."""

_port: type[Limiter] = SplitLimiter
