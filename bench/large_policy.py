"""The time that a policy with 500 routes and 10,000 overrides adds to matching a request."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import API_CONTEXT, Matcher
from ratelimitd.core.model import Identity, Limit, Request
from ratelimitd.core.policy import Override, PolicySet, Route
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName

ROUTES = 500
OVERRIDES = 10_000
USER = "u00001234"
"""A user with an override."""


def large(policy: PolicySet) -> PolicySet:
    """Returns this policy with many overrides and routes of every form; the last one matches all of /api."""
    forms = ("/api/v1/thing{}", "/api/v1/thing{}/*", "/api/v1/thing{}/*/orders", "/api/v2/thing{}/**")
    patterns = [forms[at % len(forms)].format(at) for at in range(ROUTES - 1)] + ["/api/**"]
    methods = (None, frozenset({"GET"}), frozenset({"POST", "PUT"}))
    routes = [
        Route(f"routes[{at}]", pattern, methods[at % 3], pattern) for at, pattern in enumerate(patterns)
    ]
    return replace(policy, digest="large", routes=RouteTable(routes), by_identity=_overrides())


def _overrides() -> Mapping[str, Override]:
    users = [f"u{number:08d}" for number in range(OVERRIDES)]
    return {
        user: Override(f"overrides.users.{user}", limits={TierName.USER: Limit(100_000, 1.0)})
        for user in users
    }


MAX_ADDED_US = 3
"""Goal for the added time."""

PATHS = (
    "/api/ping",
    "/api/v1/thing100",
    "/api/v1/thing101/7",
    "/api/v1/thing102/8/orders",
    "/api/v2/thing103/a/b/c",
    "/elsewhere/x",
)
"""Paths that match each form of a route, only the last route, and no route."""


def added_us(policy: PolicySet, times: int, measure: Callable[[Callable[[], object]], float]) -> list[float]:
    """Microseconds that the large policy adds to a match, averaged over all paths; `times` values."""
    larger = large(policy)
    identity = Identity("header", USER)
    requests = [Request("GET", path, "", {}, "", {API_CONTEXT: "/api/*"}) for path in PATHS]

    def each(one: PolicySet) -> Callable[[], object]:
        matcher = Matcher(one, KeyLayout("rate"))
        return lambda: [matcher.match(request, identity) for request in requests]

    return [(measure(each(larger)) - measure(each(policy))) / len(PATHS) for _ in range(times)]
