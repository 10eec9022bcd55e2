"""What a big policy adds to a decision: 500 routes and 10,000 overrides against none, in one run."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ratelimitd.core.match import API_CONTEXT, match
from ratelimitd.core.model import Identity, Limit, Request
from ratelimitd.core.policy import Override, PolicySet, Route
from ratelimitd.core.routes import RouteTable

ROUTES = 500
OVERRIDES = 10_000
USER = "u00001234"
"""One of those that have an override."""


def big(policy: PolicySet) -> PolicySet:
    """This policy with many routes of every form, the last of which takes all, and many overrides."""
    forms = ("/api/v1/thing{}", "/api/v1/thing{}/*", "/api/v1/thing{}/*/orders", "/api/v2/thing{}/**")
    patterns = [forms[at % len(forms)].format(at) for at in range(ROUTES - 1)] + ["/api/**"]
    methods = (None, frozenset({"GET"}), frozenset({"POST", "PUT"}))
    routes = [
        Route(f"routes[{at}]", pattern, methods[at % 3], pattern) for at, pattern in enumerate(patterns)
    ]
    return replace(policy, digest="big", routes=RouteTable(routes), by_identity=_overrides())


def _overrides() -> Mapping[str, Override]:
    users = [f"u{number:08d}" for number in range(OVERRIDES)]
    return {user: Override(f"overrides.users.{user}", user=Limit(100_000, 1.0)) for user in users}


MATCH_US = 3
"""What matching these may add to a decision, at most."""

PATHS = (
    "/api/ping",
    "/api/v1/thing100",
    "/api/v1/thing101/7",
    "/api/v1/thing102/8/orders",
    "/api/v2/thing103/a/b/c",
    "/elsewhere/x",
)
"""What is asked about: each form of a route, what only the last one takes, and what none takes."""


def added_us(policy: PolicySet, times: int, measure: Callable[[Callable[[], object]], float]) -> list[float]:
    """Microseconds that the big policy adds to a match, the mean over all paths, `times` over."""
    grown = big(policy)
    who = Identity("header", USER)
    requests = [Request("GET", path, "", {}, "", {API_CONTEXT: "/api/*"}) for path in PATHS]

    def each(one: PolicySet) -> Callable[[], object]:
        return lambda: [match(one, request, who, "rate") for request in requests]

    return [(measure(each(grown)) - measure(each(policy))) / len(PATHS) for _ in range(times)]
