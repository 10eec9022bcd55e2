"""Ports in memory, short enough to trust by reading."""

from collections.abc import Callable

from ratelimitd.core.bucket import Bucket, take
from ratelimitd.core.check import Check
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.model import Limit, OnStoreError, Outcome, TakeRequest, TierName
from ratelimitd.core.policy import PolicySet, TierRule
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError

SEED_POLICY = PolicySet(
    "seed",
    {
        TierName.GLOBAL: TierRule(Limit(10, 1.0)),
        TierName.USER: TierRule(Limit(5, 1.0)),
        TierName.USER_API: TierRule(Limit(3, 1.0)),
    },
)


class FixedPolicies:
    """One policy for ever."""

    def __init__(self, policy: PolicySet = SEED_POLICY) -> None:
        self._policy = policy

    def current(self) -> PolicySet:
        """That policy."""
        return self._policy


class OracleLimiter:
    """The oracle over a dictionary, at an instant that the test sets."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {}
        self.now_us = 1_800_000_000_000_000

    async def take(self, request: TakeRequest) -> Outcome:
        """The oracle's outcome."""
        outcome, changed = take(self.buckets, request, self.now_us)
        self.buckets |= changed
        return outcome


class FixedLimiter:
    """The same outcome for every request."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    async def take(self, _request: TakeRequest) -> Outcome:
        """That outcome."""
        return self._outcome


class BrokenLimiter:
    """A store that is away."""

    async def take(self, _request: TakeRequest) -> Outcome:
        """Always raises."""
        raise StoreError("away")


def check_over(
    limiter: Limiter,
    on_store_error: OnStoreError = OnStoreError.DENY,
    policy: PolicySet = SEED_POLICY,
    on_shadow_denial: Callable[[str], None] = lambda _name: None,
) -> Check:
    """A Check with the seed's limits over this limiter."""
    return Check(
        policies=FixedPolicies(policy),
        limiter=limiter,
        sources=parse_sources("header:x-user-id,address", None),
        key_prefix="rate",
        on_store_error=on_store_error,
        on_shadow_denial=on_shadow_denial,
    )
