"""What a policy may hold, and the messages that reject the rest."""

from typing import Any

import pytest

from ratelimitd.core.identity import address_key
from ratelimitd.core.tiers import TIERS, TierName
from ratelimitd.policy.field_types import key_of_address
from ratelimitd.policy.limits import LimitEntry, LimitingPart
from ratelimitd.policy.overrides import MAX_OVERRIDES, OverrideEntry
from ratelimitd.policy.routes import MAX_ROUTES, RouteEntry
from ratelimitd.rate_text import per_second
from tests.policy.documents import document, full, problems

LIMIT = {"capacity": 10, "refill_rate": 1}


def with_tier(**tier: Any) -> dict[str, Any]:
    """Returns a policy with this tier `user`."""
    policy = document()
    policy["tiers"]["user"] = tier
    return policy


def with_route(**route: Any) -> dict[str, Any]:
    """Returns a policy with one route."""
    return document(routes=[{"path": "/a"} | route])


def with_overrides(**overrides: Any) -> dict[str, Any]:
    """Returns a policy with these overrides."""
    return document(overrides=overrides)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ({"tiers": {}}, "tiers.global: must be given; write `off` to switch it off"),
        ({"tiers": {"user": None}}, "tiers.user: must be a limit, or off to switch the tier off, got null"),
        ({"tiers": {"user": True}}, "tiers.user: must be a limit, or off to switch the tier off, got true"),
        ({"tiers": 5}, "tiers: must be an object, got 5"),
        (document(limits=1), "limits: unknown key; the keys are tiers, shadow, routes, overrides"),
        (document(user_rate=1), "user_rate: unknown key; the keys are tiers, shadow, routes, overrides"),
        (document(shadow="yes"), "shadow: must be true or false, got 'yes'"),
        (with_tier(capacity=5), "tiers.user.rate: must be given, or refill_rate"),
        (
            with_tier(capacity=5, refill_rate=1, rate="1/s"),
            "tiers.user.rate: must not be given beside refill_rate",
        ),
        (
            with_tier(capacity=5, refill_rate=None),
            "tiers.user.refill_rate: must have a value, or be omitted",
        ),
        (with_tier(capacity=0, refill_rate=1), "tiers.user.capacity: must be 1 or more, got 0"),
        (with_tier(capacity=5, refill_rate=10**400), "tiers.user.refill_rate: must be "),
        (with_tier(capacity=5, rate="5"), "tiers.user.rate: must be a number, a slash and s, min, h or day"),
        (with_tier(capacity=5, rate="-5/s"), "tiers.user.rate: must be a number, a slash and"),
        (with_tier(capacity=5, rate="5/s\n"), "tiers.user.rate: must be a number, a slash and"),
        (with_tier(capacity=5, rate="٣/s"), "tiers.user.rate: must be a number, a slash and"),
        (with_tier(capacity=5, rate="5/year"), "such as 100/min, got '5/year'"),
        (with_tier(capacity=5, rate="1e99/s"), "must be from 0.000001 to 1000000000 tokens per second"),
        (with_tier(capacity=5, rate=5), "tiers.user.rate: must be text, got 5"),
        (with_tier(capacity=5, rate="0.05/day"), "must be from 0.000001 to 1000000000 tokens per second"),
        (
            with_tier(capacity=5, rate="0/s"),
            "must be from 0.000001 to 1000000000 tokens per second, got '0/s'",
        ),
        (
            with_tier(**LIMIT, on_store_error="503"),
            "tiers.user.on_store_error: must be 'deny', 'allow', 'envoy' or 'local', got '503'",
        ),
        (
            document(tiers={"global": {**LIMIT, "lease": "on"}}),
            "tiers.global.lease: must be 'auto' or 'off', got 'on'",
        ),
        (
            with_tier(**LIMIT, lease="auto"),
            "tiers.user.lease: unknown key; the keys are capacity, refill_rate, rate, shadow, on_store_error",
        ),
        (
            with_tier(**LIMIT, burst=5),
            "tiers.user.burst: unknown key; the keys are capacity, refill_rate, rate, shadow, on_store",
        ),
        (with_route(path="api"), "routes[0].path: must begin with /, got 'api'"),
        (with_route(path="/**/a"), "routes[0].path: must have ** at its end only, got '/**/a'"),
        (with_route(path="/a*"), "must be made of plain segments, * for one segment and ** for the rest"),
        (with_route(path="/a?b"), "routes[0].path: must have neither a query nor a fragment"),
        (with_route(path="/a#b"), "routes[0].path: must have neither a query nor a fragment"),
        (with_route(path="/a b"), "routes[0].path: must have %20 in place of ' ', got '/a b'"),
        (with_route(path="/a\u3000b"), "routes[0].path: must have %E3%80%80 in place of"),
        (
            with_route(path="/a/%zz"),
            "path: must have two hexadecimal digits after each % (%25 is a literal %), got '/a/%zz'",
        ),
        (with_route(path="/a%4/b"), "must have two hexadecimal digits after each %"),
        (with_route(path="/100%"), "must have two hexadecimal digits after each %"),
        (with_route(path="/%u0041"), "must have two hexadecimal digits after each %"),
        (with_route(path="/" + "a" * 256), "routes[0].path: must have at most 256 characters, got '/aaa"),
        (with_route(path=""), "routes[0].path: must not be empty, got ''"),
        (with_route(methods=[]), "routes[0].methods: must have 1 or more"),
        (with_route(methods=["get"]), "routes[0].methods[0]: must be a method in upper case, such as GET"),
        (with_route(methods="GET"), "routes[0].methods: must be a list, got 'GET'"),
        (with_route(methods=["A"] * 21), "routes[0].methods: must have at most 20"),
        (with_route(api="a b"), "routes[0].api: must have neither spaces nor control characters, got 'a b'"),
        (with_route(api="a\nb"), "routes[0].api: must have neither spaces nor control characters"),
        (with_route(api=""), "routes[0].api: must not be empty"),
        (with_route(cost=-1), "routes[0].cost: must be 0 or more, got -1"),
        (with_route(cost=0.5), "routes[0].cost: must be a whole number, got 0.5"),
        (with_route(cost=None), "routes[0].cost: must be a whole number, got null"),
        (with_route(user_api={}), "routes[0].user_api.capacity: must be given"),
        (
            with_route(user_api={"shadow": True}),
            "shadow: unknown key; the keys are capacity, refill_rate, rate",
        ),
        (document(routes=[5]), "routes[0]: must be an object, got 5"),
        (document(routes=[{"path": "/a"}] * (MAX_ROUTES + 1)), "routes: must have at most 1000"),
        (with_overrides(users={"": {}}), 'overrides.users."": must not be empty'),
        (with_overrides(users={"a,b": {}}), "overrides.users.a,b: must have no comma"),
        (with_overrides(users={" a": {}}), "overrides.users. a: must have no spaces around it"),
        (with_overrides(users={"a\tb": {}}), 'overrides.users."a\\tb": must have no control characters'),
        (with_overrides(users={"a" * 257: {}}), "must have at most 256 characters"),
        (
            with_overrides(users={"a": {"usr": {}}}),
            "overrides.users.a.usr: unknown key; the keys are user, ",
        ),
        (
            with_overrides(users={"user": {"user": {"x": 1}}}),
            "user.user.x: unknown key; the keys are capacity",
        ),
        (with_overrides(users={"a": None}), "overrides.users.a: must be an object, got null"),
        (
            with_overrides(groups={}),
            "overrides.groups: unknown key; the keys are users, addresses, headers",
        ),
        (
            with_overrides(addresses={"10.0.0.0/8": {}}),
            "overrides.addresses.10.0.0.0/8: must be an IPv4 address",
        ),
        (with_overrides(addresses={"10.0.0.0/64": {}}), "overrides.addresses.10.0.0.0/64: must be an IPv4"),
        (
            with_overrides(addresses={"::ffff:10.0.0.1/64": {}}),
            "must be an IPv4 address, an IPv6 address, or",
        ),
        (with_overrides(addresses={"203.0.113.9:4431": {}}), "must be an IPv4 address, an IPv6 address, or"),
        (
            with_overrides(headers={"X-Plan": {}}),
            "overrides.headers.X-Plan: must be a header name in lower",
        ),
        (with_overrides(headers={"a b": {}}), "overrides.headers.a b: must be a header name"),
        (with_overrides(headers={"x": {"": {}}}), 'overrides.headers.x."": must not be empty'),
        (with_overrides(headers={"x": {"g ": {}}}), "overrides.headers.x.g : must have no spaces around it"),
        (with_overrides(context={"": {}}), 'overrides.context."": must not be empty'),
        (
            with_overrides(context={"plan": {"gold": {"user": {"capacity": 0, "refill_rate": 1}}}}),
            "overrides.context.plan.gold.user.capacity: must be 1 or more, got 0",
        ),
    ],
)
def test_a_bad_policy_is_rejected_with_path_and_reason(bad: dict[str, Any], problem: str) -> None:
    assert problem in "\n".join(problems(bad))


def test_all_problems_are_reported_at_once() -> None:
    """Problems between valid parts are reported although other parts are invalid."""
    bad = document(
        routes=[{"path": "a"}, {"path": "/b", "cost": 21}, {"path": "/c", "cost": -1}],
        overrides={"users": {"a,b": {}}, "addresses": {"2001:db8::1": {}, "2001:db8::2": {}}},
    )
    assert problems(bad) == [
        "routes[0].path: must begin with /, got 'a'",
        "routes[2].cost: must be 0 or more, got -1",
        "overrides.users.a,b: must have no comma: a header with a comma identifies no user, got 'a,b'",
        "routes[1].cost: must be 20 or less, the capacity of tiers.user_api, got 21",
        "overrides.addresses.2001:db8::2: must be given once: '2001:db8::1' is the same identity",
    ]


def test_after_fifty_problems_the_rest_are_counted() -> None:
    found = problems(document(routes=[{"path": "a"}] * 60))
    assert (len(found), found[-1]) == (51, "and 10 more")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::1", "2001:DB8:0::2"),
        ("203.0.113.9", "::ffff:203.0.113.9"),
        ("8.8.8.8", "64:ff9b::808:808"),
    ],
)
def test_two_spellings_of_one_address_are_rejected_naming_both(one: str, other: str) -> None:
    assert problems(with_overrides(addresses={one: {}, other: {}})) == [
        f"overrides.addresses.{other}: must be given once: {one!r} is the same identity"
    ]


def test_an_override_for_an_address_has_the_key_of_its_requests() -> None:
    assert key_of_address("203.0.113.9") == address_key("203.0.113.9")
    assert key_of_address("2001:db8::/64") == key_of_address("2001:db8::7") == address_key("2001:db8::9")
    assert key_of_address(" 203.0.113.9") is None
    assert key_of_address("2002:808:808:1::/64") == address_key("2002:808:808:2::1") == "ip=8.8.8.8"


@pytest.mark.parametrize(
    "network", ["64:ff9b::/64", "64:ff9b:1::808:808/64", "64:ff9b:1:2::/64", "2001::/64"]
)
def test_an_override_for_a_network_of_a_translator_changes_no_client(network: str) -> None:
    """Version 0.4 charged such a network as one, so stored policies may have such an override."""
    assert problems(with_overrides(addresses={network: {}})) == []
    assert key_of_address(network) not in {None, "ip=8.8.8.8", "ip=247.247.247.247"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (document(routes=[1] * 200_000), "routes: must have at most 1000"),
        (with_route(methods=[1] * 200_000), "routes[0].methods: must have at most 20"),
        (
            with_overrides(users={str(number): 1 for number in range(MAX_OVERRIDES + 1)}),
            "overrides: must be at most 20000 together, got 20001",
        ),
    ],
)
def test_too_many_items_are_rejected_before_any_is_validated(data: dict[str, Any], reason: str) -> None:
    """Validating half a million bad items took 4 s and 800 MB in every replica."""
    assert problems(data | {"shadow": 1}) == ["shadow: must be true or false, got 1", reason]


def test_the_overrides_of_all_kinds_together_are_bounded() -> None:
    half: dict[str, Any] = {f"u{number}": {} for number in range(MAX_OVERRIDES // 2)}
    one: dict[str, Any] = {"gold": {}}
    assert problems(with_overrides(users=half, headers={"x-team": half})) == []
    assert problems(with_overrides(users=half, headers={"x-team": half, "x": one}, context={"x": one})) == [
        "overrides: must be at most 20000 together, got 20002"
    ]


@pytest.mark.parametrize(
    ("cost", "changes", "reason"),
    [
        (21, {}, "must be 20 or less, the capacity of tiers.user_api, got 21"),
        (20, {}, None),
        (
            6,
            {"user_api": {"capacity": 5, "refill_rate": 1}},
            "must be 5 or less, the capacity of routes[0].user_api",
        ),
        (21, {"user_api": {"capacity": 50, "refill_rate": 1}}, None),
        (
            101,
            {"user_api": {"capacity": 999, "refill_rate": 1}},
            "must be 100 or less, the capacity of tiers.user",
        ),
        (21, {"shadow": True}, None),
        (21, {"exempt": True}, None),
    ],
)
def test_a_cost_that_no_bucket_could_pay_is_rejected(cost: int, changes: Any, reason: str | None) -> None:
    found = problems(with_route(cost=cost, **changes))
    assert found == [] if reason is None else reason in found[0] and found[0].startswith("routes[0].cost: ")


@pytest.mark.parametrize("tier", ["off", False, {"capacity": 1, "refill_rate": 1, "shadow": True}])
def test_a_tier_that_is_off_or_in_shadow_bounds_no_cost(tier: Any) -> None:
    policy = with_route(cost=50)
    policy["tiers"]["user_api"] = tier
    assert problems(policy) == []
    assert problems(with_route(cost=1000) | {"shadow": True}) == []


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/min", 100 / 60),
        ("0.5/s", 0.5),
        ("300/min", 5.0),
        ("7/h", 7 / 3600),
        ("1/day", 1 / 86400),
        ("1.2e+06/min", 20_000.0),
        ("5e-1/s", 0.5),
    ],
)
def test_a_rate_text_is_tokens_per_unit(text: str, rate: float) -> None:
    assert per_second(text) == rate
    tiers = full(tiers=with_tier(capacity=5, rate=text)["tiers"]).tiers
    tier = dict(tiers.items())[TierName.USER]
    assert tier is not None
    assert tier.tokens_per_s == rate


@pytest.mark.parametrize("part", [RouteEntry, OverrideEntry])
def test_a_field_named_after_a_tier_holds_its_limit(part: type[LimitingPart]) -> None:
    for name in TIERS:
        if name in part.model_fields:
            assert part.model_fields[name].annotation == LimitEntry | None
