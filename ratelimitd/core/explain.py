"""What would be decided about a request, and why. It spends nothing: the oracle's word on real buckets."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ratelimitd.core.bucket import Bucket, refill, take, wait_us
from ratelimitd.core.headers import denying_tier
from ratelimitd.core.match import Terms, denying_shadow, match
from ratelimitd.core.model import MICRO, Identity, Limit, Request, TierName
from ratelimitd.core.policy import PolicySet


class TierState(NamedTuple):
    """A tier of a request as it stands now.

    Args:
        name: which.
        key: its bucket in the store.
        limit: the limit that holds for this request.
        shadow: it cannot deny.
        tokens: microtokens in the bucket now.
        enough: it could pay.
        retry_after_us: until it can pay, if nobody spends meanwhile; 0 when it can.
        reset_after_us: until it is full, likewise.
    """

    name: TierName
    key: str
    limit: Limit
    shadow: bool
    tokens: int
    enough: bool
    retry_after_us: int
    reset_after_us: int


class Explanation(NamedTuple):
    """What a request would get.

    Args:
        identity: who would be charged.
        route: the route that matches, by its name in the policy's text, or None.
        override: the override that holds, likewise.
        cost: in microtokens, from each tier.
        outcome: `allowed`, `denied`, `blocked` or `exempt`.
        reason: why, as a sentence.
        denied_by: the tier that says no, or None.
        shadow: what is in shadow and would have denied, by its name in the policy's text, or None.
        tiers: those that can deny, then those in shadow.
        retry_after_us: until it would be allowed, if nobody spends meanwhile; None unless denied.
        more: how many such requests at once would be allowed; None when no bucket bounds them.
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


def keys_of(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> tuple[str, ...]:
    """The buckets that `explain` wants to know."""
    return match(policy, request, identity, key_prefix).spend(identity).keys


def explain(  # noqa: PLR0917 - what a decision depends on
    policy: PolicySet,
    request: Request,
    identity: Identity,
    key_prefix: str,
    buckets: Mapping[str, Bucket],
    now_us: int,
) -> Explanation:
    """The explanation, from the buckets as the store holds them; one that is absent is full."""
    terms = match(policy, request, identity, key_prefix)
    spend, cost = terms.spend(identity), terms.charge.cost
    outcome, _ = take(buckets, spend._replace(look=True), now_us)
    named = [*((*one, False) for one in terms.limits), *((*one, True) for one in terms.shadow)]
    tiers = [
        _state(name, key, limit, cost, refill(buckets.get(key), limit, now_us).tokens, shadow=in_shadow)
        for key, (name, limit, in_shadow) in zip(spend.keys, named, strict=True)
    ]
    denied_by, retry_after_us = None, None
    if not outcome.allowed:
        denied_by, retry_after_us = denying_tier(terms.limits, cost, outcome.tokens)
    shadow = denying_shadow(policy, terms, outcome) if outcome.allowed else None
    left = [state.tokens for state in tiers if not state.shadow]
    return Explanation(
        identity=identity,
        route=None if terms.route is None else terms.route.name,
        override=None if terms.override is None else terms.override.name,
        cost=cost,
        outcome=terms.unlimited if outcome.allowed else "denied",
        reason=_reason(terms, tiers, denied_by, shadow),
        denied_by=denied_by,
        shadow=shadow,
        tiers=tuple(tiers),
        retry_after_us=retry_after_us,
        more=min(left) // cost if left and cost else None,
    )


def _state(name: TierName, key: str, limit: Limit, cost: int, tokens: int, *, shadow: bool) -> TierState:
    return TierState(
        name=name,
        key=key,
        limit=limit,
        shadow=shadow,
        tokens=tokens,
        enough=tokens >= cost,
        retry_after_us=wait_us(cost - tokens, limit.refill_rate),
        reset_after_us=wait_us(limit.capacity_micro - tokens, limit.refill_rate),
    )


def _reason(terms: Terms, tiers: Sequence[TierState], denied_by: TierName | None, shadow: str | None) -> str:
    if terms.blocked and terms.override is not None:
        return f"{terms.override.name} blocks it"
    if terms.exempt_by is not None:
        return f"{terms.exempt_by} exempts it"
    if not tiers:
        return "no tier is on"
    cost = f"{terms.charge.cost / MICRO:g}"
    for state in tiers:
        if state.name == denied_by and not state.shadow:
            held = state.tokens // 1000 / 1000  # rounded down, as nobody is denied who could pay
            return f"{state.name} holds {held:.3f} tokens and the request costs {cost}"
    if shadow is not None:
        return f"every tier that can deny can pay {cost}; {shadow} is in shadow and would deny"
    return f"every tier can pay {cost}"
