"""Deciders with the limiters of the service, and a store that answers at once: without leases and with them.

The clock of the leases stands still after it has been read, so that a lease neither ends nor is renewed.
"""

from bench.stores import GLOBAL, LEASED_POLICY_SET, POLICY_SET
from ratelimitd.core.decide import Decider
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.lease import lease_terms
from ratelimitd.core.model import MICRO, OnStoreError, Outcome, TakeRequest
from ratelimitd.core.policy import PolicySet
from ratelimitd.decider import limiter_over
from ratelimitd.limiter.deny_cache import monotonic_us
from ratelimitd.limiter.leased_takes import LeasePool
from ratelimitd.telemetry.decision_counts import DecisionCounts

LAYOUT = KeyLayout("rate")
HELD = 10**9 * MICRO
"""Microtokens that are leased: more than any run spends."""


class _Policies:
    """Has one policy."""

    def __init__(self, policy: PolicySet) -> None:
        self._policy = policy

    def current(self) -> PolicySet:
        """Returns the policy."""
        return self._policy


class _Store:
    """Allows all requests. Its buckets hold so little that nothing is leased."""

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome."""
        return _OUTCOMES[len(request.keys)]


_OUTCOMES = [Outcome(allowed=True, tokens=(MICRO,) * keys) for keys in range(4)]


def deciders() -> list[tuple[str, Decider]]:
    """Returns deciders that allow all requests, by what they show."""
    return [
        (f"decide through the limiters, {leases}{suffix}", _decider(policy, held=held, observed=observed))
        for suffix, observed in (("", False), (", and observe", True))
        for leases, policy, held in (
            ("no leases", POLICY_SET, 0),
            ("paid by a lease", LEASED_POLICY_SET, HELD),
            ("leases, but none can pay", LEASED_POLICY_SET, 0),
        )
    ]


def _decider(policy: PolicySet, *, held: int, observed: bool) -> Decider:
    pool = LeasePool(lambda: monotonic_us() * 0)
    terms = lease_terms(GLOBAL)
    if held and terms is not None:
        pool.of("rate:global", GLOBAL, terms).granted(held, 0, MICRO)
    limiter, _ = limiter_over(LAYOUT, _Store(), _Store(), pool)
    return Decider(
        policies=_Policies(policy),
        limiter=limiter,
        sources=parse_sources("header:x-user-id,address", "x-ratelimitd-client-address"),
        layout=LAYOUT,
        on_store_error=OnStoreError.DENY,
        observers=(DecisionCounts(),) if observed else (),
    )
