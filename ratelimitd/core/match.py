"""Request -> what it is up against. An override's limit wins over a route's, and that over the tier's."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from ratelimitd.core.headers import LimitItem, Limits, denying_tier, limit_items, policy_field
from ratelimitd.core.model import (
    MICRO,
    Charge,
    Identity,
    Limit,
    OnStoreError,
    Outcome,
    Request,
    TakeRequest,
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

NO_CHARGE = Charge(MICRO, ())
"""Of a request for which no bucket takes part."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What holds for all requests of a kind, whoever sends them. Equal to itself alone, as parts of a policy.

    Args:
        route: the route that matched.
        override: the override that holds.
        blocked: such a request is refused.
        blocked_in_shadow: it would be, if nothing were in shadow.
        exempt_by: what exempts it, by its name in the policy's text: it is allowed without a look.
        charge: what is taken; from no bucket where it is blocked or exempt.
        limits: those of the tiers that can deny, in the charge's order.
        shadow: those of the tiers that cannot, likewise.
        keys: of the tiers' buckets, likewise. The identity's key goes between two pieces; where the second is
            None, the first is all of it.
        policy_field: RateLimit-Policy, of the tiers that can deny.
        limit_items: what RateLimit needs of the same.
        on_store_error: the answers to a store that is away, of the route, else of each tier that can deny;
            None among them is the setting's.
    """

    route: Route | None
    override: Override | None
    blocked: bool = False
    blocked_in_shadow: bool = False
    exempt_by: str | None = None
    charge: Charge = NO_CHARGE
    limits: Limits = ()
    shadow: Limits = ()
    keys: tuple[tuple[str, str | None], ...] = ()
    policy_field: str = ""
    limit_items: tuple[LimitItem, ...] = ()
    on_store_error: frozenset[OnStoreError | None] = frozenset()

    @property
    def unlimited(self) -> str:
        """The outcome where no bucket takes part."""
        return "blocked" if self.blocked else "exempt" if self.exempt_by else "allowed"

    def spend(self, identity: Identity) -> TakeRequest:
        """What is to be taken for a request of this identity."""
        who = identity.key
        keys = [before if after is None else before + who + after for before, after in self.keys]
        return TakeRequest(self.charge, tuple(keys))


def match(policy: PolicySet, request: Request, identity: Identity, key_prefix: str) -> Terms:
    """What holds for a request of this identity. A matched route names the API's bucket, not the context."""
    route = policy.route(request)
    override = policy.override(request, identity)
    api = request.context.get(API_CONTEXT) or ANY_API if route is None else route.api
    return _terms_of(policy)(api, route, override, key_prefix)


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
    enforced: dict[TierName, Limit] = {}
    shadow: dict[TierName, Limit] = {}
    for name, rule in policy.tiers.items():
        in_shadow = all_in_shadow or rule.shadow
        (shadow if in_shadow else enforced)[name] = _limit(name, rule.limit, route, override)
    answers = {policy.tiers[name].on_store_error for name in enforced}
    if answers and route is not None and route.on_store_error is not None:
        answers = {route.on_store_error}
    limits = tuple(enforced.items())
    return Terms(
        route,
        override,
        blocked_in_shadow=blocked_in_shadow,
        charge=Charge(
            MICRO if route is None else route.cost * MICRO, tuple(enforced.values()), tuple(shadow.values())
        ),
        limits=limits,
        shadow=tuple(shadow.items()),
        keys=(
            *[_key(name, api, key_prefix) for name in enforced],
            *[_key(name, api, f"{key_prefix}:shadow") for name in shadow],
        ),
        policy_field=policy_field(limits),
        limit_items=limit_items(limits),
        on_store_error=frozenset(answers),
    )


def _key(name: TierName, api: str, key_prefix: str) -> tuple[str, str | None]:
    if name is TierName.GLOBAL:
        return f"{key_prefix}:global", None
    return f"{key_prefix}:user:", "" if name is TierName.USER else f":api:{api}"


def shadow_of_all(policy: PolicySet, route: Route | None, override: Override | None) -> str | None:
    """What puts all tiers of a request in shadow, by its name in the policy's text, or None."""
    if policy.shadow:
        return "policy"
    if override is not None and override.shadow:
        return override.name
    if route is not None and route.shadow:
        return route.name
    return None


def denying_shadow(policy: PolicySet, terms: Terms, outcome: Outcome) -> str | None:
    """What is in shadow and would have denied, by its name in the policy's text; None when nothing would."""
    if terms.blocked_in_shadow and terms.override is not None:
        return terms.override.name
    if outcome.shadow is None or outcome.shadow.allowed:
        return None
    tier, _ = denying_tier(terms.shadow, terms.charge.cost, outcome.shadow.tokens)
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
