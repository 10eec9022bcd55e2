"""Advice on rules that have no effect, and only on those."""

from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.patterns import covers
from ratelimitd.core.routes import RouteTable
from ratelimitd.policy.advice import advice
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.text import DEFAULT_TEXT, parse
from tests.policy.documents import ROUTE, TIERS, full

LIMIT = {"capacity": 7, "refill_rate": 1}


def advised(**parts: Any) -> list[str]:
    """Returns the advice on a policy."""
    return [str(problem) for problem in advice(full(**parts))]


def test_a_good_policy_gets_no_advice() -> None:
    assert advice(parse(DEFAULT_TEXT)) == ()
    assert (
        advised(routes=[{"path": "/a"}, {"path": "/**"}], overrides={"users": {"a": {"shadow": True}}}) == []
    )


@pytest.mark.parametrize(
    "network", ["64:ff9b::/64", "64:ff9b::1%a/b/64", "64:ff9b:1:2::/64", "2001:0:4136:e378::/64"]
)
def test_a_network_of_clients_that_are_charged_one_by_one_gets_advice(network: str) -> None:
    limits = {name: {"user": LIMIT} for name in (network, "2001:db8::/64", "64:ff9b::808:808", "::/64")}
    reason = "has no effect: the clients in this network are charged one by one, by their IPv4 addresses"
    assert advised(overrides={"addresses": limits}) == [f"overrides.addresses.{network}: {reason}"]


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        (
            [("/a", None), ("/a", None)],
            "routes[1]: is unreachable: routes[0] already matches every request it would",
        ),
        ([("/a", ["GET"]), ("/a", ["GET"])], "routes[1]: is unreachable: routes[0] already matches"),
        ([("/a", None), ("/a", ["GET"])], "routes[1]: is unreachable: routes[0] already matches"),
        ([("/a", ["GET"]), ("/a", None)], None),
        ([("/a", ["GET"]), ("/a", ["POST"])], None),
        (
            [("/a/**", None), ("/b", None), ("/a/*/c", None)],
            "routes[2]: is unreachable: routes[0] already matches",
        ),
        ([("/a/*", None), ("/a/**", None)], None),
        ([("/*/b", None), ("/a/*", None)], None),
        ([("/a//b/", None), ("/a/b", None)], "routes[1]: is unreachable: routes[0] already matches"),
        ([("/é", None), ("/%c3%a9", None)], "routes[1]: is unreachable: routes[0] already matches"),
        ([("/%2A", None), ("/a", None)], None),
        (
            [("/a", ["GET"]), ("/b", None), ("/*", ["POST", "PUT"]), ("/a", ["GET", "PUT"])],
            "routes[3]: is unreachable: routes[0], routes[2] already match every request it would",
        ),
        ([("/a", ["GET"]), ("/*", ["POST"]), ("/a", ["GET", "PUT"])], None),
    ],
)
def test_a_route_that_earlier_routes_cover_is_unreachable(
    routes: list[tuple[str, list[str] | None]], expected: str | None
) -> None:
    """Earlier routes cover it alone or together: their methods add up."""
    written = [{"path": path} | ({} if methods is None else {"methods": methods}) for path, methods in routes]
    found = advised(routes=written)
    assert found == [] if expected is None else len(found) == 1 and found[0].startswith(expected)


NORMALIZED = "matches no request while Envoy normalizes paths: it"
DOTS = f"{NORMALIZED} resolves . and ..; use"
SLASHES = f"{NORMALIZED} turns %2F, %5C and \\ into /; use"
PARAMETERS = "has path parameters; use {}, which matches requests with and without them"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/api/..", f"{DOTS} /"),
        ("/api/../x", f"{DOTS} /x"),
        ("/api/./x", f"{DOTS} /api/x"),
        ("/api/x/.", f"{DOTS} /api/x"),
        ("/api/%2e%2E/x", f"{DOTS} /x"),
        ("/api/.%2e/x", f"{DOTS} /x"),
        ("/api/*/../**", f"{DOTS} /api/**"),
        ("/api/..;v/x", f"{DOTS} /x"),
        ("/api/a%2Fb", f"{SLASHES} /api/a/b"),
        ("/api/a%2fb", f"{SLASHES} /api/a/b"),
        ("/api/a%5Cb/*", f"{SLASHES} /api/a/b/*"),
        ("/api/a\\b", f"{SLASHES} /api/a/b"),
        ("/api/a%2F..%2Fb", f"{SLASHES} /api/b"),
        ("/api/search;v=1", PARAMETERS.format("/api/search")),
        ("/api/search;", PARAMETERS.format("/api/search")),
        ("/api/search%3bv=1/x", PARAMETERS.format("/api/search/x")),
        ("/;v=1", PARAMETERS.format("/")),
        ("/api/a%00b", "matches no request: Envoy refuses a path with %00"),
        ("/api/café", None),
        ("/api/na%C3%AFve", None),
        ("/api/%73earch", None),
        ("/api//x/", None),
        ("/api/...", None),
        ("/api/.well-known/a..b", None),
        ("/api/a%3D1", None),
        ("/api/{id}", None),
    ],
)
def test_a_pattern_that_no_request_matches_is_advised_against(pattern: str, expected: str | None) -> None:
    assert advised(routes=[{"path": pattern}]) == (
        [] if expected is None else [f"routes[0].path: {expected}"]
    )


@given(
    st.lists(ROUTE, max_size=6),
    st.lists(st.sampled_from("abcd"), max_size=4),
    st.sampled_from(["GET", "POST", "X"]),
)
def test_no_request_matches_a_route_reported_as_unreachable(
    routes: list[dict[str, Any]], segments: list[str], method: str
) -> None:
    policy = full(
        routes=[{name: route[name] for name in ("path", "methods") if name in route} for route in routes]
    )
    unreachable = {problem.path for problem in advice(policy) if "is unreachable" in problem.reason}
    table = policy_set(policy, "").routes or RouteTable(())
    found = table.find(method, "/" + "/".join(segments))
    assert found is None or found.name not in unreachable


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"routes": [{"path": "/a", "exempt": True, "cost": 2, "user_api": LIMIT, "shadow": True}]},
            ["routes[0].cost: has no effect beside exempt", "routes[0].user_api: ", "routes[0].shadow: "],
        ),
        (
            {"routes": [{"path": "/a", "exempt": True, "on_store_error": "deny"}]},
            ["routes[0].on_store_error: has no effect beside exempt"],
        ),
        (
            {"routes": [{"path": "/a", "user_api": LIMIT}], "tiers": TIERS | {"user_api": "off"}},
            ["routes[0].user_api: has no effect: tiers.user_api is off"],
        ),
        ({"overrides": {"users": {"a": {}}}}, ["overrides.users.a: is empty: give it user, user_api"]),
        (
            {"overrides": {"headers": {"x": {"y": {"exempt": False}}}}},
            ["overrides.headers.x.y: is empty"],
        ),
        (
            {"overrides": {"users": {"a": {"blocked": True, "user": LIMIT, "exempt": True}}}},
            [
                "overrides.users.a.user: has no effect beside blocked",
                "overrides.users.a.exempt: has no effect beside",
            ],
        ),
        ({"overrides": {"users": {"a": {"blocked": True, "user": LIMIT, "shadow": True}}}}, []),
        ({"overrides": {"users": {"a": {"blocked": True, "user": LIMIT}}}, "shadow": True}, []),
        (
            {"overrides": {"context": {"p": {"g": {"exempt": True, "user_api": LIMIT, "shadow": True}}}}},
            [
                "overrides.context.p.g.user_api: has no effect beside exempt",
                "overrides.context.p.g.shadow: has no effect",
            ],
        ),
        (
            {"overrides": {"addresses": {"10.0.0.1": {"user": LIMIT}}}, "tiers": TIERS | {"user": "off"}},
            ["overrides.addresses.10.0.0.1.user: has no effect: tiers.user is off"],
        ),
        (
            {
                "routes": [{"path": "/a", "cost": 3}, {"path": "/b", "cost": 8}, {"path": "/c", "cost": 8}],
                "overrides": {"users": {"a": {"user": LIMIT, "user_api": LIMIT}}},
            },
            [
                "overrides.users.a.user.capacity: is 7, so routes[1], which costs 8, is always denied",
                "overrides.users.a.user_api.capacity: is 7, so routes[1], which costs 8, is always denied",
            ],
        ),
        (
            {
                "routes": [{"path": "/a", "cost": 7}, {"path": "/b", "cost": 8, "shadow": True}],
                "overrides": {"users": {"a": {"user": LIMIT}}},
            },
            [],
        ),
        (
            {
                "routes": [{"path": "/a", "cost": 8}],
                "overrides": {"users": {"a": {"user": LIMIT, "shadow": True}}},
            },
            [],
        ),
        (
            {
                "routes": [{"path": "/a", "cost": 8}],
                "overrides": {"users": {"a": {"user": LIMIT}}},
                "tiers": TIERS | {"user": {**TIERS["user"], "shadow": True}},
            },
            [],
        ),
    ],
)
def test_rules_without_effect_are_reported_with_their_path(
    parts: dict[str, Any], expected: list[str]
) -> None:
    found = advised(**parts)
    assert len(found) == len(expected), found
    for one, start in zip(found, expected, strict=True):
        assert one.startswith(start)


@pytest.mark.parametrize(
    "paths",
    [
        [f"/api/v{n}/*/orders" for n in range(1000)],
        ["/api" + "/a" * 100 + f"/{n}/z" for n in range(1000)],
        ["/api/**"] * 1000,
    ],
)
def test_advice_on_a_thousand_routes_compares_few_pairs(
    paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All pairs would be half a million."""
    policy = full(routes=[{"path": path, "methods": ["GET", "POST"]} for path in paths])
    compared = Mock(wraps=covers)
    monkeypatch.setattr("ratelimitd.policy.advice.covers", compared)
    advice(policy)
    assert compared.call_count < 1000


def test_the_cost_of_an_unreachable_route_is_ignored() -> None:
    routes = [{"path": "/a"}, {"path": "/a", "cost": 4}, {"path": "/b", "cost": 3}]
    policy = full(routes=routes, overrides={"users": {"alice": {"user": LIMIT | {"capacity": 2}}}})
    assert [str(problem) for problem in advice(policy)] == [
        "routes[1]: is unreachable: routes[0] already matches every request it would",
        "overrides.users.alice.user.capacity: is 2, so routes[2], which costs 3, is always denied",
    ]


@pytest.mark.parametrize(("capacity", "useless"), [(7, True), (8, False)])
def test_a_lease_of_a_small_bucket_is_useless(capacity: int, *, useless: bool) -> None:
    tier = {"capacity": capacity, "refill_rate": 2, "lease": "auto"}
    given = [str(one) for one in advice(full(tiers={"global": tier, "user": "off", "user_api": "off"}))]
    text = "tiers.global.lease: has no effect: the capacity or the rate is too small"
    assert given == ([text] if useless else [])
