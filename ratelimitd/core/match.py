"""Request -> what it is up against. An override's limit wins over a route's, and that over the tier's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

from ratelimitd.core.headers import Limits, denying_tier, policy_field
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

REMEMBERED = 4096
"""Terms of a policy that are remembered, the least recently used forgotten first: about 4 MB."""


class TierTerms(NamedTuple):
    """A tier before it is known who asks: a key is the identity's between `before` and `after`.

    `shared` is a tier that is the same for everybody.
    """

    name: TierName
    limit: Limit
    before: str
    after: str
    shared: Tier | None


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What holds for all requests of a kind, whoever sends them. Equal to itself alone, as parts of a policy.

    Args:
        route: the route that matched.
        override: the override that holds.
        blocked: such a request is refused.
        blocked_in_shadow: it would be, if nothing were in shadow.
        exempt_by: what exempts it, by its name in the policy's text: it is allowed without a look.
        tiers: those that can deny. None where it is blocked or exempt.
        shadow: those that cannot.
        cost: in microtokens.
        limits: those of the tiers that can deny.
        policy_field: RateLimit-Policy, of the same.
        on_store_error: the answers to a store that is away, of the route, else of each tier that can deny;
            None among them is the setting's.
    """

    route: Route | None
    override: Override | None
    blocked: bool = False
    blocked_in_shadow: bool = False
    exempt_by: str | None = None
    tiers: tuple[TierTerms, ...] = ()
    shadow: tuple[TierTerms, ...] = ()
    cost: int = MICRO
    limits: Limits = ()
    policy_field: str = ""
    on_store_error: frozenset[OnStoreError | None] = frozenset()

    @property
    def unlimited(self) -> str:
        """The outcome where no bucket takes part."""
        return "blocked" if self.blocked else "exempt" if self.exempt_by else "allowed"


class Match(NamedTuple):
    """What is to be taken for a request, and the terms it is under."""

    spend: TakeRequest
    terms: Terms


def match(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> Match:
    """What holds for a request of this identity. A matched route names the API's bucket, not the context."""
    route = policy.route(request)
    override = policy.override(request, identity)
    api = request.context.get(API_CONTEXT) or ANY_API if route is None else route.api
    terms = _terms_of(policy)(api, route, override, key_prefix)
    who = identity.key
    shadow = _tiers(terms.shadow, who) if terms.shadow else ()
    return Match(TakeRequest(_tiers(terms.tiers, who), terms.cost, shadow), terms)


def _tiers(tiers: tuple[TierTerms, ...], who: str) -> tuple[Tier, ...]:
    return tuple(
        [shared or Tier(name, f"{before}{who}{after}", limit) for name, limit, before, after, shared in tiers]
    )


@lru_cache(maxsize=2)
def _terms_of(policy: PolicySet) -> Callable[[str, Route | None, Override | None, str], Terms]:
    """Remembers the terms of two policies, no more: each may be megabytes."""
    return lru_cache(maxsize=REMEMBERED)(partial(_terms, policy))


def _terms(
    policy: PolicySet, api: str, route: Route | None, override: Override | None, key_prefix: str
) -> Terms:
    all_in_shadow = shadow_of_all(policy, route, override) is not None
    blocked = override is not None and override.blocked
    blocked_in_shadow = blocked and shadow_of_all(policy, None, override) is not None
    if blocked and not blocked_in_shadow:
        return Terms(route, override, blocked=True)
    for exempting in (override, route):
        if exempting is not None and exempting.exempt:
            return Terms(route, override, exempt_by=exempting.name)
    enforced: list[TierTerms] = []
    shadow: list[TierTerms] = []
    for name, rule in policy.tiers.items():
        in_shadow = all_in_shadow or rule.shadow
        limit = _limit(name, rule.limit, route, override)
        prefix = f"{key_prefix}:shadow" if in_shadow else key_prefix
        (shadow if in_shadow else enforced).append(_tier(name, limit, api, prefix))
    limits = tuple([(tier.name, tier.limit) for tier in enforced])
    answers = {policy.tiers[tier.name].on_store_error for tier in enforced}
    if answers and route is not None and route.on_store_error is not None:
        answers = {route.on_store_error}
    return Terms(
        route,
        override,
        blocked_in_shadow=blocked_in_shadow,
        tiers=tuple(enforced),
        shadow=tuple(shadow),
        cost=MICRO if route is None else route.cost * MICRO,
        limits=limits,
        policy_field=policy_field(limits),
        on_store_error=frozenset(answers),
    )


def _tier(name: TierName, limit: Limit, api: str, key_prefix: str) -> TierTerms:
    if name is TierName.GLOBAL:
        return TierTerms(name, limit, "", "", Tier(name, f"{key_prefix}:global", limit))
    after = "" if name is TierName.USER else f":api:{api}"
    return TierTerms(name, limit, f"{key_prefix}:user:", after, None)


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
    spend, terms = matched
    if terms.blocked_in_shadow and terms.override is not None:
        return terms.override.name
    if outcome.shadow is None or outcome.shadow.allowed:
        return None
    limits = [(tier.name, tier.limit) for tier in spend.shadow]
    tier, _ = denying_tier(limits, spend.cost, outcome.shadow.tokens)
    return shadow_of_all(policy, terms.route, terms.override) or f"tiers.{tier}"


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
