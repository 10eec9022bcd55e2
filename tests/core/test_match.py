"""Tests of matching requests with policies, partly against a simple second matcher."""

import json
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.decide import Decider
from ratelimitd.core.identity import identify, parse_sources
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import MatchedRules, Matcher
from ratelimitd.core.model import MICRO, OnStoreError, Request
from ratelimitd.core.policy import PolicySet, Route
from ratelimitd.core.response import ResponseKind
from ratelimitd.core.routes import RouteTable
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.text import parse
from tests.core.fakes import BrokenLimiter, FixedPolicies, OracleLimiter, check_over
from tests.core.test_routes import matches_simply, split
from tests.policy.documents import TIERS, VALID_DOCUMENTS, document

SOURCES = parse_sources("header:x-user-id,address", None)
LIMIT = {"capacity": 7, "refill_rate": 1}


def compiled(data: dict[str, Any]) -> PolicySet:
    """Compiles the policy of a document."""
    return policy_set(parse(json.dumps(data)), "r1")


def make_request(
    path: str = "/a", method: str = "GET", user: str | None = "alice", **changes: Any
) -> Request:
    """Returns a request of this user, or without a user if None."""
    headers = changes.get("headers", {}) | ({} if user is None else {"x-user-id": user})
    return Request(
        method, path, "host", headers, changes.get("peer", "203.0.113.9"), changes.get("context", {})
    )


def matched(data: dict[str, Any], request: Request) -> MatchedRules:
    """Returns the rules that match a request."""
    return Matcher(compiled(data), KeyLayout("rate")).match(request, identify(SOURCES, request))


def capacities(found: MatchedRules) -> dict[str, int]:
    """Returns the capacity of each tier that the request uses."""
    return {name.value: limit.capacity for name, limit in (*found.limits, *found.shadow)}


class ChangingPolicies(FixedPolicies):
    """Provides a policy that the test can replace."""

    policy = property(None, lambda self, policy: setattr(self, "_policy", policy))


async def test_a_replaced_policy_is_freed_at_the_next_decision() -> None:
    policies = ChangingPolicies(compiled(document(routes=[{"path": "/a"}])))
    decider = Decider(
        policies=policies,
        limiter=OracleLimiter(),
        sources=SOURCES,
        layout=KeyLayout("rate"),
        on_store_error=OnStoreError.DENY,
    )
    await decider(make_request())
    replaced = weakref.ref(policies.current().routes)
    policies.policy = compiled(document())
    await decider(make_request())
    assert replaced() is None


def test_a_limit_of_an_override_wins_over_a_route_and_over_the_tier() -> None:
    route = {"path": "/a", "user_api": {"capacity": 11, "refill_rate": 1}}
    plain = document(routes=[route])
    assert capacities(matched(document(), make_request())) == {"global": 500, "user": 100, "user_api": 20}
    assert capacities(matched(plain, make_request())) == {"global": 500, "user": 100, "user_api": 11}
    user = plain | {"overrides": {"users": {"alice": {"user": LIMIT}}}}
    assert capacities(matched(user, make_request())) == {"global": 500, "user": 7, "user_api": 11}
    both = plain | {"overrides": {"users": {"alice": {"user": LIMIT, "user_api": LIMIT}}}}
    assert capacities(matched(both, make_request())) == {"global": 500, "user": 7, "user_api": 7}


def test_overrides_are_matched_by_identity_then_header_then_context() -> None:
    """Among several headers or context keys, the first one with an override for the value wins."""
    overrides = {
        "users": {"alice": {"shadow": True}},
        "addresses": {"2001:db8::/64": {"shadow": True}},
        "headers": {"x-plan": {"gold": {"shadow": True}}, "x-team": {"red": {"shadow": True}}},
        "context": {"plan": {"gold": {"shadow": True}}, "team": {"red": {"shadow": True}}},
    }
    policy = compiled(document(overrides=overrides))

    def name(request: Request) -> str | None:
        found = Matcher(policy, KeyLayout("rate")).match(request, identify(SOURCES, request)).override
        return None if found is None else found.name

    all_overrides: dict[str, Any] = {
        "headers": {"x-team": "red", "x-plan": "gold"},
        "context": {"team": "red", "plan": "gold"},
    }
    assert name(make_request(**all_overrides)) == "overrides.users.alice"
    from_address = make_request(user=None, peer="2001:db8::5:6", **all_overrides)
    assert name(from_address) == "overrides.addresses.2001:db8::/64"
    assert name(make_request(user="alice", peer="2001:db8::5:6")) == "overrides.users.alice"
    assert name(make_request(user="bob", peer="2001:db8::5:6")) is None
    assert name(make_request(user="bob", **all_overrides)) == "overrides.headers.x-plan.gold"
    all_overrides["headers"]["x-plan"] = "silver"
    assert name(make_request(user="bob", **all_overrides)) == "overrides.headers.x-team.red"
    all_overrides["headers"] = {}
    assert name(make_request(user="bob", **all_overrides)) == "overrides.context.plan.gold"
    assert name(make_request(user="bob", context={"team": " red\t"})) == "overrides.context.team.red"
    assert name(make_request(user="ip=2001:db8::")) is None


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"shadow": True}, "global user user_api"),
        ({"routes": [{"path": "/a", "shadow": True}]}, "global user user_api"),
        ({"overrides": {"users": {"alice": {"shadow": True}}}}, "global user user_api"),
        ({"tiers": TIERS | {"user": LIMIT | {"shadow": True}}}, "user"),
        ({"routes": [{"path": "/b", "shadow": True}]}, ""),
    ],
)
def test_tiers_in_shadow_use_separate_buckets(parts: dict[str, Any], name: str) -> None:
    found = matched(document(**parts), make_request())
    keys = found.take_request(identify(SOURCES, make_request())).keys
    enforced = len(found.limits)
    assert [tier.value for tier, _ in found.shadow] == name.split()
    assert all(key.startswith("rate:shadow:") for key in keys[enforced:])
    assert not any(key.startswith("rate:shadow:") for key in keys[:enforced])
    assert len(keys) == 3


async def test_a_blocked_request_gets_403_and_takes_no_tokens() -> None:
    """A block wins over an exempt route."""
    policy = document(
        routes=[{"path": "/a", "exempt": True}], overrides={"users": {"alice": {"blocked": True}}}
    )
    limiter = OracleLimiter()
    response = await check_over(limiter, policy=compiled(policy))(make_request())
    assert (response.template.kind, response.template.http_status, response.template.body) == (
        ResponseKind.DENIED,
        403,
        '{"error":"blocked"}',
    )
    assert limiter.buckets == {}


async def test_a_policy_with_all_tiers_off_does_not_use_the_store() -> None:
    policy = compiled(document(tiers={"global": "off", "user": False, "user_api": "off"}))
    response = await check_over(BrokenLimiter(), policy=policy)(make_request())
    assert response.template.kind is ResponseKind.OK


@pytest.mark.parametrize(
    ("user", "route", "reply"),
    [
        ({}, {}, ResponseKind.DENIED),
        ({}, {"on_store_error": "allow"}, ResponseKind.OK),
        ({"on_store_error": "envoy"}, {}, ResponseKind.ERROR),
        ({"on_store_error": "deny"}, {"on_store_error": "envoy"}, ResponseKind.ERROR),
        ({"on_store_error": "envoy"}, {"on_store_error": "deny"}, ResponseKind.DENIED),
        ({"on_store_error": "envoy", "shadow": True}, {}, ResponseKind.OK),
        ({"on_store_error": "envoy"}, {"shadow": True}, ResponseKind.OK),
        ({"on_store_error": "envoy"}, {"shadow": True, "on_store_error": "deny"}, ResponseKind.OK),
        ({"on_store_error": "allow"}, {"on_store_error": "local"}, ResponseKind.DENIED),
    ],
)
async def test_in_an_outage_the_route_decides_else_the_tiers_that_can_deny(
    user: dict[str, Any], route: dict[str, Any], reply: ResponseKind
) -> None:
    """The setting is `deny` if the tier `user` has no fields of its own here, else `allow`."""
    tiers = {"global": "off", "user": LIMIT | user, "user_api": "off"}
    policy = compiled(document(tiers=tiers, routes=[{"path": "/a"} | route]))
    setting = OnStoreError.ALLOW if user else OnStoreError.DENY
    assert (await check_over(BrokenLimiter(), setting, policy)(make_request())).template.kind is reply


def expected(data: dict[str, Any], request: Request, key: str, kind_names: list[str]) -> dict[str, Any]:
    """Matches by scanning the document: `key` is the key of the identity, `kind_names` are its spellings."""
    routes = [
        (at, route)
        for at, route in enumerate(data.get("routes", []))
        if matches_simply(split(route["path"]), split(request.path))
        and request.method in route.get("methods", [request.method])
    ]
    at, route = routes[0] if routes else (None, {})
    name, override = _override(data.get("overrides", {}), request, kind_names)
    soft = data.get("shadow", False) or override.get("shadow", False)
    if override.get("blocked") and not soft:
        return {"route": at, "override": name, "blocked": True}
    if override.get("exempt") or route.get("exempt"):
        return {"route": at, "override": name, "exempt": True}
    found: dict[str, Any] = {"route": at, "override": name, "cost": route.get("cost", 1) * MICRO}
    found["blocked_in_shadow"] = bool(override.get("blocked"))
    api = (route.get("api") or route["path"]) if route else request.context.get("api") or "*"
    keys = {"global": "global", "user": f"user:{key}", "user_api": f"user:{key}:api:{api}"}
    outage_answers = set()
    for tier in ("global", "user", "user_api"):
        limit = data["tiers"][tier]
        if not isinstance(limit, dict):
            continue
        in_shadow = soft or route.get("shadow", False) or limit.get("shadow", False)
        limit_in_force = override.get(tier) or (route.get(tier) if tier == "user_api" else None) or limit
        prefix = "rate:shadow" if in_shadow else "rate"
        found[f"{prefix}:{keys[tier]}"] = (limit_in_force["capacity"], _per_second(limit_in_force))
        if not in_shadow:
            outage_answers.add(limit.get("on_store_error"))
    found["answers"] = (
        {route["on_store_error"]} if outage_answers and "on_store_error" in route else outage_answers
    )
    return found


def _per_second(limit: dict[str, Any]) -> float:
    if "refill_rate" in limit:
        return float(limit["refill_rate"])
    number, unit = limit["rate"].split("/")
    return float(number) / {"s": 1, "min": 60, "h": 60 * 60, "day": 24 * 60 * 60}[unit]


def _override(
    overrides: dict[str, Any], request: Request, kind_names: list[str]
) -> tuple[str | None, dict[str, Any]]:
    for kind in ("users", "addresses"):
        for name, override in overrides.get(kind, {}).items():
            if name in kind_names:
                return f"overrides.{kind}.{name}", override
    for kind, values in (("headers", request.headers), ("context", request.context)):
        for name, by_value in overrides.get(kind, {}).items():
            for value, override in by_value.items():
                if values.get(name) == value:
                    return f"overrides.{kind}.{name}.{value}", override
    return None, {}


def as_expected(rules: MatchedRules, request: Request) -> dict[str, Any]:
    """Returns matched rules in the form of `expected`."""
    charge, keys, _ = rules.take_request(identify(SOURCES, request))
    fields: dict[str, Any] = {
        "route": None if rules.route is None else int(rules.route.name[7:-1]),
        "override": rules.override and rules.override.name,
    }
    if rules.blocked:
        return fields | {"blocked": True}
    if rules.exempt_by:
        return fields | {"exempt": True}
    return (
        fields
        | {"cost": charge.cost, "blocked_in_shadow": rules.blocked_in_shadow}
        | dict(zip(keys, [tuple(limit) for limit in charge.limits + charge.shadow], strict=True))
        | {"answers": {answer and answer.value for answer in rules.on_store_error}}
    )


IDENTITIES = st.sampled_from(
    [
        ({"x-user-id": "alice"}, "", "alice", ["alice"]),
        ({"x-user-id": "ä b"}, "10.0.0.1", "%C3%A4%20b", ["ä b"]),
        ({"x-user-id": "a:b=c"}, "2001:db8::1", "a%3Ab%3Dc", ["a:b=c"]),
        ({}, "203.0.113.9", "ip=203.0.113.9", ["203.0.113.9"]),
        ({}, "2001:db8::77", "ip=2001%3Adb8%3A%3A%2F64", ["2001:db8::/64"]),
        ({}, "2001:db8:1::77", "ip=2001%3Adb8%3A1%3A%3A%2F64", ["2001:db8:1::5"]),
        ({}, "", "=anonymous", []),
    ]
)
VALUES = st.sampled_from(["gold", "red", "blue"])
PATHS = st.lists(st.sampled_from("abc"), max_size=4).map(lambda segments: "/" + "/".join(segments))


REQUESTS = st.builds(
    Request,
    st.sampled_from(["GET", "POST", "HEAD"]),
    PATHS,
    st.just("host"),
    st.dictionaries(st.sampled_from(["x-plan", "x-team"]), VALUES),
    st.just(""),
    st.dictionaries(st.sampled_from(["plan", "team", "api"]), VALUES),
)


@given(VALID_DOCUMENTS, IDENTITIES, REQUESTS)
def test_a_compiled_policy_matches_as_its_document_reads(
    data: dict[str, Any], identity: tuple[dict[str, str], str, str, list[str]], request: Request
) -> None:
    user, peer, key, names = identity
    request = request._replace(headers={**request.headers, **user}, peer_address=peer)
    assert as_expected(matched(data, request), request) == expected(data, request, key, names)


SPELLED_ROUTES = document(
    routes=[
        {"path": "/api/search", "cost": 5},
        {"path": "/api/status", "exempt": True},
        {"path": "/api/free", "cost": 0},
        {"path": "/api/trial", "shadow": True},
        {"path": "/api/users/me", "cost": 1},
        {"path": "/api/users/*", "cost": 3},
        {"path": "/static/**", "exempt": True},
    ]
)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/search;v=1", "routes[0]"),
        ("/api/search;", "routes[0]"),
        ("/api/search%3Bv=1", "routes[0]"),
        ("/api/search%3bv=1", "routes[0]"),
        ("/api;x/search", "routes[0]"),
        ("/api/;x/search", "routes[0]"),
        ("/api/search;v=1/", "routes[0]"),
        ("/api/s%65arch;v=1", "routes[0]"),
        ("/api/x/..;/search", "routes[0]"),
        ("/api/search;v=1/more", None),
        ("/api/searches;v=1", None),
        ("/api/status", "routes[1]"),
        ("/api/status;v=1", None),
        ("/api/free;v=1", None),
        ("/api/trial;v=1", None),
        ("/api/users/me", "routes[4]"),
        ("/api/users/me;v=1", "routes[5]"),
        ("/static/app.js;v=1", "routes[6]"),
        ("/static/../api/search;v=1", "routes[0]"),
        ("/api/%3D", None),
    ],
)
def test_path_parameters_count_as_the_route_unless_that_is_cheaper(path: str, route: str | None) -> None:
    found = matched(SPELLED_ROUTES, make_request(path)).route
    assert (found and found.name) == route


# Envoy resolves dot segments without parameters.
MORE_SPELLINGS = st.lists(
    st.sampled_from(["a", "b", "%61", ";", ";x", "%3B", "%3bx=1", "a;", "b%3Bx", "..;", ".;"]), max_size=4
).map(lambda segments: "/" + "/".join(segments))


@given(VALID_DOCUMENTS, MORE_SPELLINGS, st.sampled_from(["GET", "POST"]))
def test_no_parameter_makes_a_request_cheaper(data: dict[str, Any], path: str, method: str) -> None:
    """It takes what the dearer takes: the request without parameters, or the path as literal text."""
    policy = compiled(data)
    routes = policy.routes or RouteTable(())

    def tokens(route: Route | None) -> int:
        if route is None:
            return 1
        return 0 if route.exempt or route.shadow else route.cost

    bare = routes.find(method, path, parameters=False)
    expected = max(tokens(bare), tokens(routes.find(method, path)))
    assert tokens(policy.route(make_request(path, method))) == expected


ANY_TEXT = st.text(max_size=20) | st.binary(max_size=20).map(lambda raw: raw.decode(errors="surrogateescape"))


ANY_REQUEST = st.builds(
    Request,
    ANY_TEXT,
    ANY_TEXT,
    ANY_TEXT,
    st.dictionaries(ANY_TEXT | st.sampled_from(["x-user-id", "x-plan", "content-type"]), ANY_TEXT),
    ANY_TEXT,
    st.dictionaries(ANY_TEXT | st.sampled_from(["plan", "api"]), ANY_TEXT),
)


@given(VALID_DOCUMENTS, ANY_REQUEST, st.sampled_from([OracleLimiter, BrokenLimiter]))
async def test_any_request_under_any_policy_gets_a_response(
    data: dict[str, Any], request: Request, store: type[OracleLimiter | BrokenLimiter]
) -> None:
    check = check_over(store(), policy=compiled(data))
    for _ in range(3):
        assert (await check(request)).template.http_status in {200, 403, 429, 503}


@pytest.mark.parametrize(
    ("tiers", "tagged", "leased"),
    [
        ({}, False, None),
        ({}, True, 0),
        ({"global": LIMIT | {"lease": "auto"}}, False, 0),
        ({"global": LIMIT | {"lease": "auto", "shadow": True}}, False, 2),
        ({"global": LIMIT | {"lease": "off"}}, True, 0),
        ({"global": "off"}, True, None),
    ],
)
def test_the_global_bucket_is_leased_in_a_cluster_and_where_the_policy_says_so(
    tiers: dict[str, Any], leased: int | None, *, tagged: bool
) -> None:
    policy, request = compiled(document(tiers=TIERS | tiers)), make_request()
    rules = Matcher(policy, KeyLayout("rate", tagged)).match(request, identify(SOURCES, request))
    assert rules.charge.leased == leased
