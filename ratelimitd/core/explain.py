"""Explain what would be decided about a request, and why, without taking tokens.

The oracle decides on the buckets as the store holds them now.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ratelimitd.core.bucket import Bucket, charge_buckets, refill, wait_us, withheld_refill
from ratelimitd.core.denial import denying_shadow, denying_tier
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.lease import lease_terms
from ratelimitd.core.match import MatchedRules, Matcher
from ratelimitd.core.model import MICRO, Identity, Limit, Request
from ratelimitd.core.policy import PolicySet
from ratelimitd.core.tiers import TierName


class TierState(NamedTuple):
    """One tier of a request, as it is now.

    Args:
        name: the tier.
        key: its bucket in the store.
        limit: the limit that holds for this request.
        shadow: it cannot deny.
        tokens: microtokens in the bucket now.
        enough: it could pay.
        retry_after_us: until it can pay, if nobody spends meanwhile; 0 when it can, None where the cost
            exceeds its capacity.
        reset_after_us: until it is full, if nobody spends meanwhile.
        no_refill_for_us: until its `last`, which is in the future; 0 for any other bucket.
        leased_up_to: microtokens that replicas can hold in leases, at most; 0 if its tokens are not leased.
    """

    name: TierName
    key: str
    limit: Limit
    shadow: bool
    tokens: int
    enough: bool
    retry_after_us: int | None
    reset_after_us: int
    no_refill_for_us: int
    leased_up_to: int = 0


class Explanation(NamedTuple):
    """What a request would get, and why.

    Args:
        identity: the user or address that would be charged.
        route: the path in the policy's text of the route that matches, or None.
        override: the path of the override that holds, or None.
        cost: microtokens, from each tier.
        outcome: `allowed`, `denied`, `blocked` or `exempt`.
        reason: why, as a sentence.
        denied_by: the tier that denies, or None.
        shadow: the path of the part that would deny were it not in shadow, or None.
        tiers: the tiers that can deny, then those in shadow.
        retry_after_us: until it would be allowed, if nobody spends meanwhile; None unless denied, and where
            the cost exceeds the capacity of a tier, because it is then always denied.
        more: how many such requests at once would be allowed; None when no bucket limits them.
    """

    identity: Identity
    route: str | None
    override: str | None
    cost: int
    outcome: str
    reason: str
    denied_by: TierName | None
    shadow: str | None
    tiers: tuple[TierState, ...]
    retry_after_us: int | None
    more: int | None


def keys_of(policy: PolicySet, request: Request, identity: Identity, layout: KeyLayout) -> tuple[str, ...]:
    """The keys of the buckets that `explain` needs."""
    return Matcher(policy, layout).match(request, identity).take_request(identity).keys


def explain(  # noqa: PLR0917 - what a decision depends on
    policy: PolicySet,
    request: Request,
    identity: Identity,
    layout: KeyLayout,
    buckets: Mapping[str, Bucket],
    now_us: int,
) -> Explanation:
    """Explain a request, from the buckets as the store holds them; one that is absent is full."""
    rules = Matcher(policy, layout).match(request, identity)
    take_request, cost = rules.take_request(identity), rules.charge.cost
    outcome, _ = charge_buckets(buckets, take_request._replace(dry_run=True), now_us)
    limits = [*((*one, False) for one in rules.limits), *((*one, True) for one in rules.shadow)]
    tiers = [
        _state(name, key, limit, cost, buckets.get(key), now_us, shadow=in_shadow)
        for key, (name, limit, in_shadow) in zip(take_request.keys, limits, strict=True)
    ]
    at = rules.charge.leased
    if at is not None and lease_terms(tiers[at].limit) is not None:
        # What was taken from a bucket and has not refilled is an upper bound of what is leased.
        tiers[at] = tiers[at]._replace(leased_up_to=tiers[at].limit.capacity_micro - tiers[at].tokens)
    denied_by: TierName | None = None
    retry_after_us: int | None = None
    if not outcome.allowed:
        denied_by, retry_after_us = denying_tier(rules.limits, cost, outcome.tokens)
    shadow = denying_shadow(policy, rules, outcome) if outcome.allowed else None
    left = [state.tokens for state in tiers if not state.shadow]
    return Explanation(
        identity=identity,
        route=None if rules.route is None else rules.route.name,
        override=None if rules.override is None else rules.override.name,
        cost=cost,
        outcome=rules.verdict_without_buckets.value if outcome.allowed else "denied",
        reason=_reason(rules, tiers, denied_by, shadow),
        denied_by=denied_by,
        shadow=shadow,
        tiers=tuple(tiers),
        retry_after_us=retry_after_us,
        more=min(left) // cost if left and cost else None,
    )


def _state(  # noqa: PLR0917 - what the state of a tier depends on
    name: TierName, key: str, limit: Limit, cost: int, bucket: Bucket | None, now_us: int, *, shadow: bool
) -> TierState:
    tokens = refill(bucket, limit, now_us).tokens
    level = int(tokens - withheld_refill(bucket, limit, now_us))
    retry_after_us = None if cost > limit.capacity_micro else wait_us(cost - level, limit.refill_rate)
    return TierState(
        name=name,
        key=key,
        limit=limit,
        shadow=shadow,
        tokens=tokens,
        enough=tokens >= cost,
        retry_after_us=0 if tokens >= cost else retry_after_us,
        reset_after_us=0
        if tokens == limit.capacity_micro
        else wait_us(limit.capacity_micro - level, limit.refill_rate),
        no_refill_for_us=0 if bucket is None else max(0, bucket.last - now_us),
    )


def _reason(
    rules: MatchedRules, tiers: Sequence[TierState], denied_by: TierName | None, shadow: str | None
) -> str:
    if rules.blocked and rules.override is not None:
        return f"{rules.override.name} blocks it"
    if rules.exempt_by is not None:
        return f"{rules.exempt_by} exempts it"
    if not tiers:
        return "no tier is on"
    cost = f"{rules.charge.cost / MICRO:g}"
    for state in tiers:
        if state.name == denied_by and not state.shadow:
            return f"{state.name} {_holding(state, rules.charge.cost)} and the request costs {cost}"
    if shadow is not None:
        return f"every tier that can deny can pay {cost}; {shadow} is in shadow and would deny"
    return f"every tier can pay {cost}"


def _holding(state: TierState, cost: int) -> str:
    if cost > state.limit.capacity_micro:
        return f"has a capacity of {state.limit.capacity}"
    held = state.tokens // 1000 / 1000  # rounded down, so that it never reads like enough
    return f"holds {held:.3f} tokens"
