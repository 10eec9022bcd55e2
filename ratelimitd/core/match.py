"""Request -> what it is up against. An override's limit wins over a route's, and that over the tier's."""

from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.headers import denying_tier
from ratelimitd.core.model import (
    MICRO,
    Identity,
    Limit,
    OnStoreError,
    Outcome,
    Request,
    TakeRequest,
    Tier,
    TierName,
)
from ratelimitd.core.policy import Override, PolicySet, Route

ANY_API = "*"
"""The pattern of a request for which neither the policy nor the operator's route named one."""

API_CONTEXT = "api"
"""The key in a route's context that holds the route's pattern."""

DRY_RUN_CONTEXT = "ratelimitd.dry_run"
"""The key in a request's context that, with the value `true`, makes a decision that takes nothing."""

REMEMBERED = 8192
"""Matches that are remembered, the least recently used forgotten first: about 6 MB."""


class Match(NamedTuple):
    """What holds for a request.

    Args:
        spend: what is to be taken. Nothing when it is blocked or exempt, or when all tiers are off.
        route: the route that matched.
        override: the override that holds.
        blocked: it is refused.
        blocked_in_shadow: it would be, if nothing were in shadow.
        exempt_by: what exempts it, by its name in the policy's text: it is allowed without a look.
        on_store_error: the answers to a store that is away, of the route, else of each tier that can deny;
            None among them is the setting's.
    """

    spend: TakeRequest
    route: Route | None = None
    override: Override | None = None
    blocked: bool = False
    blocked_in_shadow: bool = False
    exempt_by: str | None = None
    on_store_error: frozenset[OnStoreError | None] = frozenset()

    @property
    def unlimited(self) -> str:
        """The outcome where no bucket takes part."""
        return "blocked" if self.blocked else "exempt" if self.exempt_by else "allowed"


def match(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> Match:
    """What holds for a request of this identity. A matched route names the API's bucket, not the context."""
    route = policy.route(request)
    override = policy.override(request, identity)
    api = request.context.get(API_CONTEXT) or ANY_API if route is None else route.api
    return _match(policy, identity.key, api, route, override, key_prefix)


@lru_cache(maxsize=REMEMBERED)
def _match(  # noqa: PLR0917 - all that it depends on
    policy: PolicySet,
    identity_key: str,
    api: str,
    route: Route | None,
    override: Override | None,
    key_prefix: str,
) -> Match:
    nothing = TakeRequest(())
    blocked = override is not None and override.blocked
    blocked_in_shadow = blocked and shadow_of_all(policy, None, override) is not None
    if blocked and not blocked_in_shadow:
        return Match(nothing, route, override, blocked=True)
    for exempting in (override, route):
        if exempting is not None and exempting.exempt:
            return Match(nothing, route, override, exempt_by=exempting.name)
    enforced: list[Tier] = []
    shadow: list[Tier] = []
    all_in_shadow = shadow_of_all(policy, route, override) is not None
    for name, rule in policy.tiers.items():
        in_shadow = all_in_shadow or rule.shadow
        key = tier_key(name, identity_key, api, f"{key_prefix}:shadow" if in_shadow else key_prefix)
        tier = Tier(name, key, _limit(name, rule.limit, route, override))
        (shadow if in_shadow else enforced).append(tier)
    cost = 1 if route is None else route.cost
    spend = TakeRequest(tuple(enforced), cost * MICRO, tuple(shadow))
    answers = {policy.tiers[tier.name].on_store_error for tier in enforced}
    if answers and route is not None and route.on_store_error is not None:
        answers = {route.on_store_error}
    return Match(
        spend, route, override, blocked_in_shadow=blocked_in_shadow, on_store_error=frozenset(answers)
    )


def tier_key(name: TierName, identity_key: str, api: str, key_prefix: str) -> str:
    """The key of a tier's bucket in the store."""
    if name is TierName.GLOBAL:
        return f"{key_prefix}:global"
    if name is TierName.USER:
        return f"{key_prefix}:user:{identity_key}"
    return f"{key_prefix}:user:{identity_key}:api:{api}"


def shadow_of_all(policy: PolicySet, route: Route | None, override: Override | None) -> str | None:
    """What puts all tiers of a request in shadow, by its name in the policy's text, or None."""
    if policy.shadow:
        return "policy"
    if override is not None and override.shadow:
        return override.name
    if route is not None and route.shadow:
        return route.name
    return None


def denying_shadow(policy: PolicySet, matched: Match, outcome: Outcome) -> str | None:
    """What is in shadow and would have denied, by its name in the policy's text; None when nothing would."""
    if matched.blocked_in_shadow and matched.override is not None:
        return matched.override.name
    if outcome.shadow is None or outcome.shadow.allowed:
        return None
    tier, _ = denying_tier(matched.spend.shadow, matched.spend.cost, outcome.shadow.tokens)
    return shadow_of_all(policy, matched.route, matched.override) or f"tiers.{tier}"


def _limit(name: TierName, limit: Limit, route: Route | None, override: Override | None) -> Limit:
    if name is TierName.USER:
        return (override and override.user) or limit
    if name is TierName.USER_API:
        return (override and override.user_api) or (route and route.user_api) or limit
    return limit


def limit_for(policy: PolicySet, name: TierName, identity: Identity, api: str | None) -> Limit | None:
    """The limit of a bucket without regard to headers and context; None when its tier is off."""
    rule = policy.tiers.get(name)
    if rule is None:
        return None
    routes = () if policy.routes is None else policy.routes.rules
    route = next((route for route in routes if route.api == api), None)
    return _limit(name, rule.limit, route, policy.by_identity.get(identity.key))
