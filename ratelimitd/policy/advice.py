"""What a valid policy says in vain. Nothing here refuses a policy: it is told to whoever writes one."""

from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

from ratelimitd.core.routes import ANY_REST, ANY_SEGMENT, covers, pattern_segments
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import Problem
from ratelimitd.policy.document import FlatPolicy, OverrideEntry, PolicyDocument, RouteEntry, TierEntry

MAX_NAMED = 5
"""Earlier routes that are named beside one that they cover."""


def advice(policy: FlatPolicy | PolicyDocument) -> tuple[Problem, ...]:
    """What has no effect, or one that nobody can want, in the order of the text. The flat form has none."""
    if isinstance(policy, FlatPolicy):
        return ()
    unreachable = _unreachable(policy.routes)
    return (*_of_routes(policy, unreachable), *_of_overrides(policy, unreachable))


def _of_routes(policy: PolicyDocument, unreachable: Mapping[int, Sequence[int]]) -> Iterator[Problem]:
    for at, route in enumerate(policy.routes):
        path = f"routes[{at}]"
        if at in unreachable:
            named = [f"routes[{earlier}]" for earlier in unreachable[at]]
            shown = ", ".join(named[:MAX_NAMED]) + (" and others" if len(named) > MAX_NAMED else "")
            yield Problem(path, f"is never reached: {shown} before it matches all that it does")
        if route.exempt:
            for name in ("cost", "user_api", "shadow", "on_store_error"):
                if getattr(route, name) != RouteEntry.model_fields[name].default:
                    yield Problem(f"{path}.{name}", "means nothing beside exempt: nothing is taken")
        elif route.user_api is not None and policy.tiers.user_api is None:
            yield Problem(f"{path}.user_api", "means nothing: tiers.user_api is off")


def _unreachable(routes: Sequence[RouteEntry]) -> dict[int, list[int]]:
    """Each route that can never match, and the earlier ones that take all its requests.

    A pattern covers only those that have its rarest literal at the same place, so it is compared with no
    others: of a thousand routes there are half a million pairs.
    """
    found: dict[int, list[int]] = {}
    patterns = [pattern_segments(route.path) for route in routes]
    counts = Counter(place for pattern in patterns for place in _literals(pattern))
    earlier: dict[tuple[int, str] | None, list[int]] = defaultdict(list)
    for at, narrow in enumerate(patterns):
        literals = _literals(narrow)
        candidates = sorted(one for place in (None, *literals) for one in earlier.get(place, ()))
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


def _literals(pattern: Sequence[str]) -> list[tuple[int, str]]:
    return [(at, segment) for at, segment in enumerate(pattern) if segment not in {ANY_SEGMENT, ANY_REST}]


def _of_overrides(policy: PolicyDocument, unreachable: Container[int]) -> Iterator[Problem]:
    tiers = dict(policy.tiers.items())
    reached = {at: route for at, route in enumerate(policy.routes) if at not in unreachable}
    dearest = {name: _dearest(reached, tier) for name, tier in tiers.items()}
    off = {name for name, tier in tiers.items() if tier is None}
    for path, override in _overrides(policy):
        yield from _of_override(path, override, dearest, off, shadow=policy.shadow or override.shadow)


def _of_override(
    path: str,
    override: OverrideEntry,
    dearest: Mapping[TierName, tuple[int, int]],
    off: set[TierName],
    *,
    shadow: bool,
) -> Iterator[Problem]:
    limits = {TierName.USER: override.user, TierName.USER_API: override.user_api}
    given = [name for name, limit in limits.items() if limit is not None]
    if not (given or override.exempt or override.blocked or override.shadow):
        yield Problem(path, "says nothing: give it user, user_api, exempt, blocked or shadow")
    if override.blocked and not shadow:
        for name in [*given, *(["exempt"] if override.exempt else [])]:
            yield Problem(f"{path}.{name}", "means nothing beside blocked: every request is refused")
        return
    if override.exempt:
        in_vain = [*given, *(["shadow"] if override.shadow and not override.blocked else [])]
        for name in in_vain:
            yield Problem(f"{path}.{name}", "means nothing beside exempt: nothing is taken")
        return
    for name, limit in limits.items():
        cost, at = dearest[name]
        if limit is not None and name in off:
            yield Problem(f"{path}.{name}", f"means nothing: tiers.{name} is off")
        elif limit is not None and cost > limit.capacity and not shadow:
            yield Problem(
                f"{path}.{name}.capacity",
                f"is {limit.capacity}, so routes[{at}], which costs {cost}, is always denied",
            )


def _dearest(routes: Mapping[int, RouteEntry], tier: TierEntry | None) -> tuple[int, int]:
    """The highest cost of a route that the tier can deny, and that route's place; 0 when there is none."""
    if tier is None or tier.shadow:
        return 0, 0
    costs = [(route.cost, -at) for at, route in routes.items() if not (route.exempt or route.shadow)]
    cost, at = max(costs, default=(0, 0))
    return cost, -at


def _overrides(policy: PolicyDocument) -> Iterator[tuple[str, OverrideEntry]]:
    """Every override and its path."""
    overrides = policy.overrides
    for kind, by_name in (("users", overrides.users), ("addresses", overrides.addresses)):
        for name, one in by_name.items():
            yield f"overrides.{kind}.{name}", one
    for kind, by_key in (("headers", overrides.headers), ("context", overrides.context)):
        for key, by_value in by_key.items():
            for value, one in by_value.items():
                yield f"overrides.{kind}.{key}.{value}", one
