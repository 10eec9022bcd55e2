"""A policy as a decision uses it: compiled once, immutable, and read without a scan.

Each part is equal to itself alone, so what was made of it can be remembered by it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ratelimitd.core.model import Identity, Limit, OnStoreError, Request, TierName
from ratelimitd.core.routes import RouteTable


@dataclass(frozen=True, slots=True, eq=False)
class TierRule:
    """A tier that is on.

    `on_store_error` is its answer to a store that is away; None leaves it to the setting.
    """

    limit: Limit
    shadow: bool = False
    on_store_error: OnStoreError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """What holds for the requests that a pattern matches.

    Args:
        name: where it stands in the policy's text, such as `routes[3]`.
        pattern: the paths, as RouteTable knows them.
        methods: upper-case; None is any.
        api: the name of the bucket that these requests share per user.
        cost: in tokens; 0 takes none, and is never denied.
        user_api: its own limit of that tier, in place of the policy's.
        exempt: takes nothing and is always allowed.
        shadow: none of its tiers can deny.
        on_store_error: as in TierRule; it wins over those of tiers.
    """

    name: str
    pattern: str
    methods: frozenset[str] | None
    api: str
    cost: int = 1
    user_api: Limit | None = None
    exempt: bool = False
    shadow: bool = False
    on_store_error: OnStoreError | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Override:
    """What holds for somebody in place of the policy's limits and a route's.

    `name` is where it stands in the policy's text, such as `overrides.users.alice`. A blocked request is
    refused whatever its route says. `shadow`: none of its tiers can deny, and it is not refused.
    """

    name: str
    user: Limit | None = None
    user_api: Limit | None = None
    exempt: bool = False
    blocked: bool = False
    shadow: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """The policy in force.

    Args:
        digest: identifies its text: the first 12 hex digits of the SHA-256.
        tiers: the tiers that are on.
        routes: the first that matches holds.
        by_identity: overrides by Identity.key. They come before those by header, which come before those by
            context; within one of these the first name that has an override for the request's value holds.
        by_header: by the name of a trusted header, lower-case, then by its value.
        by_context: by the key that the operator attached to the route, then by its value.
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
        """The route of a request."""
        return None if self.routes is None else self.routes.find(request.method, request.path)

    def override(self, request: Request, identity: Identity) -> Override | None:
        """The override for a request of this identity."""
        found = self.by_identity.get(identity.key)
        if found is None and self.by_header:
            found = _first(self.by_header.items(), request.headers)
        if found is None and self.by_context:
            found = _first(self.by_context.items(), request.context)
        return found


def _first(
    overrides: Iterable[tuple[str, Mapping[str, Override]]], values: Mapping[str, str]
) -> Override | None:
    for name, by_value in overrides:
        value = values.get(name)
        if value is not None and (found := by_value.get(value.strip(" \t"))) is not None:
            return found
    return None
