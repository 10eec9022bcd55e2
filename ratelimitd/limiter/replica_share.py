"""Decides from memory while the store cannot: the outage answer `local`.

Each replica has a share of every limit: its capacity and its refill rate, divided by the number of live
replicas. A capacity is rounded up to a whole token, and to the cost of the request.

In any window of t seconds, all replicas together allow from a bucket, beside what the store allows, a cost
of at most

    capacity + replicas - 1 + refill_rate * t

where no request costs more than a share. The buckets are kept when the store is back, so this holds however
often it goes and comes. Two things add to it: a replica that starts, or that forgets a bucket because it has
too many, begins with a full share; and shares grow when replicas end.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from ratelimitd.core.bucket import Bucket, charge_buckets
from ratelimitd.core.match import MatchedRules, TierLimit
from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import LocalLimiter
from ratelimitd.limiter.deny_cache import monotonic_us

MAX_BUCKETS = 100_000
"""Buckets that are kept, about 35 MB; the least recently used are dropped first."""

MAX_RULES = 4096
"""Matched rules whose shares are kept; the least recently used are dropped first."""


class ReplicaShare:
    """Takes tokens from this replica's share of every bucket.

    Args:
        replicas: returns the number of live replicas, this one included.
        now_us: a clock in microseconds that never steps, since any instant.
        max_buckets: buckets that are kept.
    """

    def __init__(
        self,
        replicas: Callable[[], int],
        *,
        now_us: Callable[[], int] = monotonic_us,
        max_buckets: int = MAX_BUCKETS,
    ) -> None:
        self._replicas = replicas
        self._now_us = now_us
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()
        self._shared = lru_cache(MAX_RULES)(shared_rules)

    def rules(self, rules: MatchedRules) -> MatchedRules:
        """The rules with this replica's share of their limits."""
        return self._shared(rules, self._replicas())

    def take(self, request: TakeRequest) -> Outcome:
        """The outcome for a request whose limits are shares."""
        buckets = self._buckets
        outcome, changed = charge_buckets(buckets, request, self._now_us())
        for key in request.keys:
            if key in changed:
                buckets[key] = changed[key]
            if key in buckets:
                buckets.move_to_end(key)
        while len(buckets) > self._max_buckets:
            buckets.popitem(last=False)
        return outcome


def shared_rules(rules: MatchedRules, replicas: int) -> MatchedRules:
    """The rules with one of `replicas` equal shares of their limits."""
    cost = rules.charge.cost

    def shares(tiers: tuple[TierLimit, ...]) -> tuple[TierLimit, ...]:
        return tuple([(name, share_of(limit, cost, replicas)) for name, limit in tiers])

    limits, shadow = shares(rules.limits), shares(rules.shadow)
    charge = Charge(cost, tuple([limit for _, limit in limits]), tuple([limit for _, limit in shadow]))
    return replace(rules, charge=charge, limits=limits, shadow=shadow, degraded=True)


def share_of(limit: Limit, cost: int, replicas: int) -> Limit:
    """One of `replicas` equal shares of a limit, for requests of a cost in microtokens.

    A request that costs more than a share could never pass, although the limit allows it. So the share holds
    at least the cost, unless the cost exceeds the limit itself.
    """
    capacity = -(-limit.capacity // replicas)
    if cost <= limit.capacity_micro:
        capacity = max(capacity, -(-cost // MICRO))
    return Limit(capacity, limit.refill_rate / replicas)


_port: type[LocalLimiter] = ReplicaShare
