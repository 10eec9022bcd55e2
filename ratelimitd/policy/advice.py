"""Advice on valid policies: rules that have no effect, or an effect that is surely unintended.

Advice never rejects a policy.
"""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

from ratelimitd.core.lease import lease_terms
from ratelimitd.core.model import Limit
from ratelimitd.core.patterns import Segment, covers, pattern_segments
from ratelimitd.core.tiers import TIERS, TierName
from ratelimitd.errors import Problem
from ratelimitd.policy.address_advice import address_advice
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.flat_form import FlatPolicy, Policy
from ratelimitd.policy.limits import LeasableTierEntry, TierEntry
from ratelimitd.policy.overrides import OverrideEntry
from ratelimitd.policy.pattern_advice import pattern_advice
from ratelimitd.policy.routes import RouteEntry

MAX_NAMED = 5
"""Earlier routes that are named in the advice on an unreachable one."""

_ROUTE_LIMITS = [name for name, tier in TIERS.items() if tier.route_may_limit]
_OVERRIDE_LIMITS = [name for name, tier in TIERS.items() if tier.override_may_limit]
_OVERRIDE_KEYS = ", ".join([*_OVERRIDE_LIMITS, "exempt", "blocked"])
_EXEMPT = "has no effect beside exempt: the requests take no tokens"


def advice(policy: Policy) -> tuple[Problem, ...]:
    """Returns the advice on a policy, in the order of its text. There is none on the flat form."""
    if isinstance(policy, FlatPolicy):
        return ()
    unreachable = _unreachable(policy.routes)
    return (*_on_tiers(policy), *_on_routes(policy, unreachable), *_on_overrides(policy, unreachable))


def _on_tiers(policy: PolicyDocument) -> Iterator[Problem]:
    for name, tier in policy.tiers.items():
        leased = isinstance(tier, LeasableTierEntry) and tier.lease == "auto"
        if leased and tier is not None and lease_terms(Limit(tier.capacity, tier.tokens_per_s)) is None:
            yield Problem(f"tiers.{name}.lease", "has no effect: the capacity or the rate is too small")


def _on_routes(policy: PolicyDocument, unreachable: Mapping[int, Sequence[int]]) -> Iterator[Problem]:
    off = _tiers_off(policy)
    for at, route in enumerate(policy.routes):
        path = f"routes[{at}]"
        if better := pattern_advice(route.path):
            yield Problem(f"{path}.path", better)
        if at in unreachable:
            yield Problem(path, f"is unreachable: {_already_match(unreachable[at])} every request it would")
        if route.exempt:
            for name in ("cost", *_ROUTE_LIMITS, "shadow", "on_store_error"):
                if getattr(route, name) != RouteEntry.model_fields[name].default:
                    yield Problem(f"{path}.{name}", _EXEMPT)
        else:
            for name in [one for one in route.limits() if one in off]:
                yield Problem(f"{path}.{name}", f"has no effect: tiers.{name} is off")


def _already_match(earlier: Sequence[int]) -> str:
    named = ", ".join(f"routes[{at}]" for at in earlier[:MAX_NAMED])
    if len(earlier) == 1:
        return f"{named} already matches"
    return f"{named}{' and others' if len(earlier) > MAX_NAMED else ''} already match"


def _unreachable(routes: Sequence[RouteEntry]) -> dict[int, list[int]]:
    """Returns each route that can never match, and the earlier ones that match all its requests.

    A pattern covers only patterns that have its rarest literal at the same position, so it is compared with
    these alone: a thousand routes make half a million pairs.
    """
    found: dict[int, list[int]] = {}
    patterns = [pattern_segments(route.path) for route in routes]
    counts = Counter(literal for pattern in patterns for literal in _literals(pattern))
    earlier: dict[tuple[int, str] | None, list[int]] = defaultdict(list)
    for at, narrow in enumerate(patterns):
        literals = _literals(narrow)
        candidates = sorted(one for literal in (None, *literals) for one in earlier.get(literal, ()))
        left = None if routes[at].methods is None else set(routes[at].methods or ())
        taken = []
        for one in candidates:
            methods = routes[one].methods
            # Only a route for any method takes any method.
            takes = methods is None or (left is not None and not left.isdisjoint(methods))
            if takes and covers(patterns[one], narrow):
                taken.append(one)
                left = set() if left is None or methods is None else left - set(methods)
                if not left:
                    found[at] = taken
                    break
        earlier[min(literals, key=counts.__getitem__, default=None)].append(at)
    return found


def _literals(pattern: Sequence[Segment]) -> list[tuple[int, str]]:
    return [(at, segment) for at, segment in enumerate(pattern) if isinstance(segment, str)]


def _on_overrides(policy: PolicyDocument, unreachable: Container[int]) -> Iterator[Problem]:
    reachable = {at: route for at, route in enumerate(policy.routes) if at not in unreachable}
    dearest = {name: _dearest(reachable, tier) for name, tier in policy.tiers.items()}
    off = _tiers_off(policy)
    for name in policy.overrides.addresses:
        if useless := address_advice(name):
            yield Problem(f"overrides.addresses.{name}", useless)
    for path, override in policy.overrides.items():
        yield from _on_override(path, override, dearest, off, shadow=policy.shadow or override.shadow)


def _tiers_off(policy: PolicyDocument) -> set[TierName]:
    return {name for name, tier in policy.tiers.items() if tier is None}


def _on_override(
    path: str,
    override: OverrideEntry,
    dearest: Mapping[TierName, tuple[int, int]],
    off: set[TierName],
    *,
    shadow: bool,
) -> Iterator[Problem]:
    limits = override.limits()
    if not (limits or override.exempt or override.blocked or override.shadow):
        yield Problem(path, f"is empty: give it {_OVERRIDE_KEYS} or shadow")
    if override.blocked and not shadow:
        for name in [*limits, *(["exempt"] if override.exempt else [])]:
            yield Problem(f"{path}.{name}", "has no effect beside blocked: every request is denied")
        return
    if override.exempt:
        for name in [*limits, *(["shadow"] if override.shadow and not override.blocked else [])]:
            yield Problem(f"{path}.{name}", _EXEMPT)
        return
    for name, limit in limits.items():
        cost, at = dearest[name]
        if name in off:
            yield Problem(f"{path}.{name}", f"has no effect: tiers.{name} is off")
        elif cost > limit.capacity and not shadow:
            yield Problem(
                f"{path}.{name}.capacity",
                f"is {limit.capacity}, so routes[{at}], which costs {cost}, is always denied",
            )


def _dearest(routes: Mapping[int, RouteEntry], tier: TierEntry | None) -> tuple[int, int]:
    """Returns the highest cost of a route that the tier can deny, and that route's index; 0 without one."""
    if tier is None or tier.shadow:
        return 0, 0
    costs = [(route.cost, -at) for at, route in routes.items() if not (route.exempt or route.shadow)]
    cost, at = max(costs, default=(0, 0))
    return cost, -at
