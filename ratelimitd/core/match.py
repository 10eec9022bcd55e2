"""Match a request against the policy: its route, its override, and the limits and cost that result.

The limit of an override wins over that of a route, and that of a route over the tier's.
"""

from dataclasses import dataclass
from functools import lru_cache, partial

from ratelimitd.core.keys import KeyLayout, KeyTemplate
from ratelimitd.core.model import (
    MICRO,
    Charge,
    Identity,
    Limit,
    OnStoreError,
    Request,
    TakeRequest,
    Verdict,
    new,
)
from ratelimitd.core.policy import Override, PolicySet, Route
from ratelimitd.core.tiers import TIERS, TierName

ANY_API = "*"
"""The API of a request for which neither the policy nor the operator's route names one."""

API_CONTEXT = "api"
"""The key in a route's context that holds the API's name."""

DRY_RUN_CONTEXT = "ratelimitd.dry_run"
"""The key in a request's context that, with the value `true`, asks for a decision that takes nothing."""

MAX_RULES = 4096
"""Matched rules that are kept for one policy, about 4 MB; the least recently used are dropped first."""

NO_CHARGE = Charge(MICRO, ())
"""The charge of a request that no bucket limits."""

TierLimit = tuple[TierName, Limit]
"""A tier and the limit that holds for its bucket."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchedRules:
    """What holds for all requests with the same API, route and override.

    Matched rules equal only themselves, so they can be a cheap key of a cache.

    Args:
        route: the route that matched.
        override: the override that holds.
        api: the name of the API.
        blocked: the request is refused.
        blocked_in_shadow: the request would be refused if nothing were in shadow.
        exempt_by: the path in the policy of the part that exempts the request; it is allowed without a take.
        charge: what is taken; nothing where the request is blocked or exempt.
        limits: the tiers that can deny, in the charge's order.
        shadow: the tiers in shadow, in the charge's order.
        keys: the keys of these tiers' buckets, those in shadow last.
        on_store_error: the replies when the store cannot decide: the route's, else that of each tier that can
            deny. None among them stands for the setting's.
        degraded: the limits are a replica's share, because the store cannot decide.
    """

    route: Route | None
    override: Override | None
    api: str = ANY_API
    blocked: bool = False
    blocked_in_shadow: bool = False
    exempt_by: str | None = None
    charge: Charge = NO_CHARGE
    limits: tuple[TierLimit, ...] = ()
    shadow: tuple[TierLimit, ...] = ()
    keys: tuple[KeyTemplate, ...] = ()
    on_store_error: frozenset[OnStoreError | None] = frozenset()
    degraded: bool = False

    @property
    def verdict_without_buckets(self) -> Verdict:
        """The verdict on these requests where no bucket can deny them."""
        if self.blocked:
            return Verdict.BLOCKED
        return Verdict.EXEMPT if self.exempt_by else Verdict.ALLOWED

    def take_request(self, identity: Identity) -> TakeRequest:
        """What to take for a request of this identity."""
        key = identity.key
        keys = tuple([before if after is None else before + key + after for before, after in self.keys])
        return new(TakeRequest, (self.charge, keys, False))


class Matcher:
    """Matches requests against one policy, and keeps the rules that it found.

    Args:
        policy: the policy.
        layout: how the keys of buckets are built.
    """

    def __init__(self, policy: PolicySet, layout: KeyLayout) -> None:
        self.policy = policy
        # Not a bound method: a cycle would keep a replaced policy, perhaps megabytes, until a collection.
        self._rules = lru_cache(MAX_RULES)(partial(_find_rules, policy, layout))

    def match(self, request: Request, identity: Identity) -> MatchedRules:
        """The rules for a request of this identity. A matched route names the API, not the context."""
        route = self.policy.route(request)
        override = self.policy.override(request, identity)
        api = request.context.get(API_CONTEXT) or ANY_API if route is None else route.api
        return self._rules(api, route, override)


def shadow_of_all(policy: PolicySet, route: Route | None, override: Override | None) -> str | None:
    """The path of the part of the policy that puts all tiers of a request in shadow, or None."""
    if policy.shadow:
        return "policy"
    if override is not None and override.shadow:
        return override.name
    if route is not None and route.shadow:
        return route.name
    return None


def limit_for(policy: PolicySet, name: TierName, identity: Identity, api: str | None) -> Limit | None:
    """The limit of a bucket, leaving headers and context aside; None when its tier is off."""
    rule = policy.tiers.get(name)
    if rule is None:
        return None
    routes = () if policy.routes is None else policy.routes.rules
    route = next((route for route in routes if route.api == api), None)
    return _limit(name, rule.limit, route, policy.by_identity.get(identity.key))


def _limit(name: TierName, limit: Limit, route: Route | None, override: Override | None) -> Limit:
    for rule in (override, route):
        if rule is not None and (own := rule.limits.get(name)) is not None:
            return own
    return limit


def _on_store_error(
    policy: PolicySet, route: Route | None, enforced: list[TierLimit]
) -> frozenset[OnStoreError | None]:
    if enforced and route is not None and route.on_store_error is not None:
        return frozenset({route.on_store_error})
    return frozenset(policy.tiers[name].on_store_error for name, _ in enforced)


def _leased(
    policy: PolicySet, layout: KeyLayout, enforced: list[TierLimit], shadow: list[TierLimit]
) -> int | None:
    """The index of the bucket whose tokens are leased, or None. Tiers that may be leased come first.

    In a cluster it is always leased, because its key cannot share a slot with the keys of all identities.
    """
    for at, tiers in ((0, enforced), (len(enforced), shadow)):
        if tiers and TIERS[tiers[0][0]].leasable and (layout.tagged or policy.tiers[tiers[0][0]].lease):
            return at
    return None


def _find_rules(
    policy: PolicySet, layout: KeyLayout, api: str, route: Route | None, override: Override | None
) -> MatchedRules:
    all_in_shadow = shadow_of_all(policy, route, override) is not None
    blocked = override is not None and override.blocked
    blocked_in_shadow = blocked and shadow_of_all(policy, None, override) is not None
    if blocked and not blocked_in_shadow:
        return MatchedRules(route, override, api, blocked=True)
    for exempting in (override, route):
        if exempting is not None and exempting.exempt:
            return MatchedRules(route, override, api, exempt_by=exempting.name)
    enforced: list[TierLimit] = []
    shadow: list[TierLimit] = []
    for name, rule in policy.tiers.items():
        limit = _limit(name, rule.limit, route, override)
        (shadow if all_in_shadow or rule.shadow else enforced).append((name, limit))
    return MatchedRules(
        route,
        override,
        api,
        blocked_in_shadow=blocked_in_shadow,
        charge=Charge(
            MICRO if route is None else route.cost * MICRO,
            tuple([limit for _, limit in enforced]),
            tuple([limit for _, limit in shadow]),
            _leased(policy, layout, enforced, shadow),
        ),
        limits=tuple(enforced),
        shadow=tuple(shadow),
        keys=(
            *[layout.template(name, api, shadow=False) for name, _ in enforced],
            *[layout.template(name, api, shadow=True) for name, _ in shadow],
        ),
        on_store_error=_on_store_error(policy, route, enforced),
    )
