"""Splits a request into the bucket that is leased and the rest, and puts the two outcomes together."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.lease import Leases, LeaseTerms, lease_terms
from ratelimitd.core.model import Charge, Limit, Outcome, TakeRequest, new
from ratelimitd.telemetry.lease_counts import LeaseCounts

MAX_CHARGES = 4096
"""Charges whose parts are kept; the least recently used are dropped first."""

NOTHING = Outcome(allowed=True, tokens=())
"""The outcome of a request without buckets."""


class Parts(NamedTuple):
    """The parts of a charge whose bucket at `leased` is leased.

    Args:
        limit: of the leased bucket.
        terms: how it is leased; None if it is too small for that.
        in_shadow: the leased bucket is in shadow.
        rest: the charge without that bucket.
        enforced: the charge without that bucket and all others in shadow.
    """

    limit: Limit
    terms: LeaseTerms | None
    in_shadow: bool
    rest: Charge
    enforced: Charge


@lru_cache(MAX_CHARGES)
def parts_of(charge: Charge) -> Parts:
    """The parts of a charge."""
    cost, limits, shadow, at = charge.cost, charge.limits, charge.shadow, charge.leased
    if at == len(limits):
        return Parts(
            shadow[0],
            lease_terms(shadow[0]),
            in_shadow=True,
            rest=Charge(cost, limits, shadow[1:]),
            enforced=Charge(cost, limits),
        )
    return Parts(
        limits[0],
        lease_terms(limits[0]),
        in_shadow=False,
        rest=Charge(cost, limits[1:], shadow),
        enforced=Charge(cost, limits[1:]),
    )


def rest_of(request: TakeRequest, parts: Parts) -> TakeRequest:
    """The request without its leased bucket."""
    charge, keys, dry_run = request
    at = charge.leased or 0
    return new(TakeRequest, (parts.rest, keys[:at] + keys[at + 1 :], dry_run))


def with_leased(outcome: Outcome, parts: Parts, tokens: int | None) -> Outcome:
    """The outcome of the rest of a request, and of a leased bucket that could pay and now has `tokens`."""
    allowed, left, shadow, withheld, local = outcome
    if not parts.in_shadow:
        return new(Outcome, (allowed, (tokens, *left), shadow, withheld, local))
    if allowed:
        others = NOTHING if shadow is None else shadow
        shadow = new(Outcome, (others.allowed, (tokens, *others.tokens), None, False, False))
    return new(Outcome, (allowed, left, shadow, withheld, local))


def leased_tokens(outcome: Outcome, parts: Parts) -> int | None:
    """The tokens of the leased bucket in the outcome of a whole request, if the store has counted them."""
    if outcome.local:
        return None
    counts = outcome.shadow if parts.in_shadow else outcome
    return None if counts is None else counts.tokens[0]


def is_charged(outcome: Outcome, parts: Parts) -> bool:
    """Whether a request with this outcome is charged to its leased bucket."""
    if parts.in_shadow:
        return outcome.allowed and outcome.shadow is not None and outcome.shadow.allowed
    return outcome.allowed


class LeasePool:
    """The leases of all buckets.

    Args:
        now_us: a clock in microseconds that never steps, since any instant.
        counts: where leased tokens are counted.
    """

    def __init__(self, now_us: Callable[[], int], counts: LeaseCounts | None = None) -> None:
        self.now_us = now_us
        self.counts = LeaseCounts() if counts is None else counts
        self._by_key: dict[str, Leases] = {}

    def of(self, key: str, limit: Limit, terms: LeaseTerms) -> Leases:
        """The leases of a bucket. Leases with another limit are dropped."""
        leases = self._by_key.get(key)
        if leases is None or leases.limit != limit:
            leases = self._by_key[key] = Leases(limit, terms)
        return leases

    def clear(self) -> None:
        """Drops all leases, also one whose call is in flight: after a new policy and a bucket's reset."""
        self._by_key.clear()
