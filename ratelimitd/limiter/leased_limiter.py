"""Pays for requests from leased tokens, so that most of them do not touch a bucket that all requests share.

`core/lease.py` has the law and its proof. A request that a lease can pay takes tokens only from its other
buckets. If these deny it, or the store fails, its tokens go back to the lease. All other requests are decided
by the wrapped limiter as if there were no leases. So a lease never denies, and no request waits for one.

A lease is an ordinary take in the store. At most one call per bucket is in flight.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial

from ratelimitd.core.lease import Leases
from ratelimitd.core.model import Charge, Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError
from ratelimitd.limiter.leased_takes import (
    NOTHING,
    LeasePool,
    is_charged,
    leased_tokens,
    parts_of,
    rest_of,
    with_leased,
)


class LeasedLimiter:
    """Spends leases, and passes all that they cannot pay to the limiter that it wraps.

    Args:
        limiter: decides requests.
        lender: makes the takes of leases.
        pool: the leases.
    """

    def __init__(self, limiter: Limiter, lender: Limiter, pool: LeasePool) -> None:
        self._limiter = limiter
        self._lender = lender
        self._pool = pool

    def take(self, request: TakeRequest) -> Awaitable[Outcome]:
        """The outcome. Raises the StoreError of the wrapped limiter."""
        charge = request.charge
        if charge.leased is None or not charge.cost:
            return self._limiter.take(request)
        return self._take(request, charge.leased)

    async def _take(self, request: TakeRequest, at: int) -> Outcome:
        charge, keys, dry_run = request
        parts = parts_of(charge)
        if parts.terms is None:
            return await self._limiter.take(request)
        now_us = self._pool.now_us()
        leases = self._pool.of(keys[at], parts.limit, parts.terms)
        if dry_run:
            return await self._dry_run(request, leases, now_us)
        until_us = leases.spend(charge.cost, now_us)
        if until_us is None:
            outcome = await self._limiter.take(request)
            tokens = leased_tokens(outcome, parts)
            if tokens is not None:
                leases.counted(tokens)
        else:
            outcome = await self._take_rest(request, leases, until_us)
            if is_charged(outcome, parts):
                self._pool.counts.spent += charge.cost
        if is_charged(outcome, parts):
            leases.charged(charge.cost, now_us)
            self._renew(leases, keys[at], now_us)
        return outcome

    async def _take_rest(self, request: TakeRequest, leases: Leases, until_us: int) -> Outcome:
        """Takes from the other buckets. The leased tokens, which are spent, go back if these do not pay."""
        parts = parts_of(request.charge)
        rest = rest_of(request, parts)
        charged = False
        try:
            outcome = await self._limiter.take(rest) if rest.keys else NOTHING
            outcome = with_leased(outcome, parts, leases.held + leases.level)
            charged = is_charged(outcome, parts)
        finally:
            if not charged:
                leases.give_back(request.charge.cost, until_us)
        return outcome

    async def _dry_run(self, request: TakeRequest, leases: Leases, now_us: int) -> Outcome:
        if not leases.can_spend(request.charge.cost, now_us):
            return await self._limiter.take(request)
        parts = parts_of(request.charge)
        rest = rest_of(request, parts)
        outcome = await self._limiter.take(rest) if rest.keys else NOTHING
        return with_leased(outcome, parts, leases.held + leases.level)

    def _renew(self, leases: Leases, key: str, now_us: int) -> None:
        """Asks the store for another lease, if it is time."""
        tokens = leases.ask(now_us)
        if not tokens:
            return
        request = TakeRequest(Charge(tokens, (leases.terms.limit,), for_lease=True), (key,))
        try:
            lease = asyncio.ensure_future(self._lender.take(request))
        except StoreError:
            leases.failed(now_us)
        else:
            lease.add_done_callback(partial(self._answered, leases, tokens, now_us))

    def _answered(self, leases: Leases, tokens: int, sent_us: int, lease: "asyncio.Future[Outcome]") -> None:
        if lease.cancelled() or lease.exception() is not None:
            leases.failed(self._pool.now_us())
            return
        outcome = lease.result()
        (level,) = outcome.tokens
        if outcome.allowed:
            leases.granted(tokens, sent_us, level or 0)
            self._pool.counts.leased += tokens
        else:
            leases.refused(level or 0)


_port: type[Limiter] = LeasedLimiter
