"""A policy as decisions use it: compiled once, immutable, and looked up without a scan.

Each part equals only itself, so it can be a cheap key of a cache.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.model import Identity, Limit, OnStoreError, Request
from ratelimitd.core.patterns import has_parameters
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName


@dataclass(frozen=True, slots=True, eq=False)
class TierRule:
    """A tier that is on.

    Args:
        limit: its limit, unless a route or an override has another.
        shadow: it counts what it would deny, and denies nothing.
        on_store_error: its reply when the store cannot decide; None leaves it to the setting.
        lease: replicas lease tokens of its bucket, if its limit is large enough.
    """

    limit: Limit
    shadow: bool = False
    on_store_error: OnStoreError | None = None
    lease: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The rules for the requests that a pattern matches.

    Args:
        name: its path in the policy's text, such as `routes[3]`.
        pattern: the paths, as RouteTable reads them.
        methods: upper-case; None matches every method.
        api: the name of the bucket that these requests share per user.
        cost: in tokens; a request that costs 0 takes none and is never denied.
        limits: limits of its own, by tier, in place of the tiers'.
        exempt: its requests take nothing and are always allowed.
        shadow: none of its tiers can deny.
        on_store_error: the reply when the store cannot decide, in place of those of the tiers.
    """

    name: str
    pattern: str
    methods: frozenset[str] | None
    api: str
    cost: int = 1
    limits: Mapping[TierName, Limit] = field(default_factory=dict)
    exempt: bool = False
    shadow: bool = False
    on_store_error: OnStoreError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """The rules for one user, address, header value or context value, in place of tiers and routes.

    Args:
        name: its path in the policy's text, such as `overrides.users.alice`.
        limits: limits of its own, by tier, in place of those of tiers and routes.
        exempt: its requests take nothing and are always allowed.
        blocked: its requests are refused, whatever their route says.
        shadow: none of its tiers can deny, and its requests are not refused.
    """

    name: str
    limits: Mapping[TierName, Limit] = field(default_factory=dict)
    exempt: bool = False
    blocked: bool = False
    shadow: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """The policy in force.

    Args:
        digest: the first 12 hex digits of the SHA-256 of its text: the same on every replica.
        tiers: the tiers that are on.
        routes: the first that matches a request holds.
        by_identity: overrides by Identity.key. They come before those by header, which come before those by
            context. Among headers, and among context keys, the first that has an override for the request's
            value holds.
        by_header: overrides by the lower-case name of a header that Envoy sets, then by its value.
        by_context: overrides by the key of a route's context, then by its value.
        shadow: no tier can deny.
    """

    digest: str
    tiers: Mapping[TierName, TierRule]
    routes: RouteTable[Route] | None = None
    by_identity: Mapping[str, Override] = field(default_factory=dict)
    by_header: Mapping[str, Mapping[str, Override]] = field(default_factory=dict)
    by_context: Mapping[str, Mapping[str, Override]] = field(default_factory=dict)
    shadow: bool = False

    def route(self, request: Request) -> Route | None:
        """The first route that matches a request.

        A path with parameters has two readings, since some backends ignore parameters and others do not: the
        path without them, and the path as it is. The reading that takes more tokens counts, so that
        parameters never make a request cheaper.
        """
        if self.routes is None:
            return None
        method, path = request.method, request.path
        found = self.routes.find(method, path)
        if has_parameters(path):
            bare = self.routes.find(method, path, parameters=False)
            return bare if _tokens(bare) >= _tokens(found) else found
        return found

    def override(self, request: Request, identity: Identity) -> Override | None:
        """The override that holds for a request of this identity."""
        found = self.by_identity.get(identity.key)
        if found is None and self.by_header:
            found = _first(self.by_header.items(), request.headers)
        if found is None and self.by_context:
            found = _first(self.by_context.items(), request.context)
        return found


def _tokens(route: Route | None) -> int:
    """What the requests of a route take from buckets that can deny."""
    if route is None:
        return 1
    return 0 if route.exempt or route.shadow else route.cost


def _first(
    overrides: Iterable[tuple[str, Mapping[str, Override]]], values: Mapping[str, str]
) -> Override | None:
    for name, by_value in overrides:
        value = values.get(name)
        if value is not None and (found := by_value.get(value.strip(" \t"))) is not None:
            return found
    return None
