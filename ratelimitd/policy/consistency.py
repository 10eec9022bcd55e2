"""Checks between parts of a policy that are valid on their own. Each finding is a location and a reason."""

from collections.abc import Iterable, Iterator, Mapping

from ratelimitd.core.identity import plain_key
from ratelimitd.policy.field_types import key_of_address
from ratelimitd.policy.limits import TiersEntry
from ratelimitd.policy.location import Location
from ratelimitd.policy.routes import RouteEntry

Finding = tuple[Location, str]


def unpayable_costs(
    tiers: TiersEntry, routes: Mapping[int, RouteEntry], *, shadow: bool
) -> Iterator[Finding]:
    """Finds costs of routes, by their indexes, above a capacity: each such request would be denied.

    `shadow` is the policy's: no tier denies then.
    """
    enforced = [(name, tier) for name, tier in tiers.items() if tier is not None and not tier.shadow]
    for at, route in routes.items():
        if shadow or route.shadow or route.exempt:
            continue
        own = route.limits()
        capacities = [
            (own[name].capacity, f"routes[{at}].{name}") if name in own else (tier.capacity, f"tiers.{name}")
            for name, tier in enforced
        ]
        least, of = min(capacities, key=lambda one: one[0], default=(route.cost, ""))
        if route.cost > least:
            reason = f"must be {least} or less, the capacity of {of}, got {route.cost}"
            yield ("routes", at, "cost"), reason


def duplicate_identities(users: Iterable[str], addresses: Iterable[str]) -> Iterator[Finding]:
    """Finds users and addresses that are one identity: only one of their overrides could hold."""
    first: dict[str, str] = {}
    keys = [("users", name, plain_key(name)) for name in users]
    keys += [("addresses", name, key_of_address(name) or name) for name in addresses]
    for kind, name, key in keys:
        other = first.setdefault(key, name)
        if other != name:
            yield ("overrides", kind, name), f"must be given once: {other!r} is the same identity"
