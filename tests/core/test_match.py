"""What holds for a request, under policies as people write them; checked against a matcher that is plain."""

import json
import weakref
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.decide import Decider
from ratelimitd.core.identity import identify, parse_sources
from ratelimitd.core.match import MatchedRules, Matcher
from ratelimitd.core.model import MICRO, OnStoreError, Request
from ratelimitd.core.policy import PolicySet
from ratelimitd.core.response import ResponseKind
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.text import parse
from tests.core.fakes import BrokenLimiter, FixedPolicies, OracleLimiter, check_over
from tests.core.test_routes import naive, split
from tests.policy.documents import TIERS, VALID_DOCUMENTS, document

SOURCES = parse_sources("header:x-user-id,address", None)
LIMIT = {"capacity": 7, "refill_rate": 1}


def compiled(data: dict[str, Any]) -> PolicySet:
    """The policy that plain data says."""
    return policy_set(parse(json.dumps(data)), "r1")


def request(path: str = "/a", method: str = "GET", user: str | None = "alice", **changes: Any) -> Request:
    """A request of that user."""
    headers = changes.get("headers", {}) | ({} if user is None else {"x-user-id": user})
    return Request(
        method, path, "host", headers, changes.get("peer", "203.0.113.9"), changes.get("context", {})
    )


def matched(data: dict[str, Any], asked: Request) -> MatchedRules:
    """What holds for a request."""
    return Matcher(compiled(data), "rate").match(asked, identify(SOURCES, asked))


def capacities(found: MatchedRules) -> dict[str, int]:
    """The capacity of each tier that takes part."""
    return {name.value: limit.capacity for name, limit in (*found.limits, *found.shadow)}


class ChangingPolicies(FixedPolicies):
    """A policy that the test replaces."""

    policy = property(None, lambda self, policy: setattr(self, "_policy", policy))


async def test_a_replaced_policy_is_freed_at_the_next_decision() -> None:
    policies = ChangingPolicies(compiled(document(routes=[{"path": "/a"}])))
    decider = Decider(
        policies=policies,
        limiter=OracleLimiter(),
        sources=SOURCES,
        key_prefix="rate",
        on_store_error=OnStoreError.DENY,
    )
    await decider(request())
    replaced = weakref.ref(policies.current().routes)
    policies.policy = compiled(document())
    await decider(request())
    assert replaced() is None


def test_an_override_wins_over_a_route_and_a_route_over_the_tier() -> None:
    """For each tier by itself."""
    route = {"path": "/a", "user_api": {"capacity": 11, "refill_rate": 1}}
    plain = document(routes=[route])
    assert capacities(matched(document(), request())) == {"global": 500, "user": 100, "user_api": 20}
    assert capacities(matched(plain, request())) == {"global": 500, "user": 100, "user_api": 11}
    user = plain | {"overrides": {"users": {"alice": {"user": LIMIT}}}}
    assert capacities(matched(user, request())) == {"global": 500, "user": 7, "user_api": 11}
    both = plain | {"overrides": {"users": {"alice": {"user": LIMIT, "user_api": LIMIT}}}}
    assert capacities(matched(both, request())) == {"global": 500, "user": 7, "user_api": 7}


def test_overrides_by_identity_come_before_those_by_header_and_those_before_context() -> None:
    """Among headers, and among context keys, the first that has one for the request's value."""
    overrides = {
        "users": {"alice": {"shadow": True}},
        "addresses": {"2001:db8::/64": {"shadow": True}},
        "headers": {"x-plan": {"gold": {"shadow": True}}, "x-team": {"red": {"shadow": True}}},
        "context": {"plan": {"gold": {"shadow": True}}, "team": {"red": {"shadow": True}}},
    }
    policy = compiled(document(overrides=overrides))

    def name(asked: Request) -> str | None:
        found = Matcher(policy, "rate").match(asked, identify(SOURCES, asked)).override
        return None if found is None else found.name

    everything: dict[str, Any] = {
        "headers": {"x-team": "red", "x-plan": "gold"},
        "context": {"team": "red", "plan": "gold"},
    }
    assert name(request(**everything)) == "overrides.users.alice"
    at_home = request(user=None, peer="2001:db8::5:6", **everything)
    assert name(at_home) == "overrides.addresses.2001:db8::/64"
    assert name(request(user="alice", peer="2001:db8::5:6")) == "overrides.users.alice"
    assert name(request(user="bob", peer="2001:db8::5:6")) is None
    assert name(request(user="bob", **everything)) == "overrides.headers.x-plan.gold"
    everything["headers"]["x-plan"] = "silver"
    assert name(request(user="bob", **everything)) == "overrides.headers.x-team.red"
    everything["headers"] = {}
    assert name(request(user="bob", **everything)) == "overrides.context.plan.gold"
    assert name(request(user="bob", context={"team": " red\t"})) == "overrides.context.team.red"
    assert name(request(user="ip=2001:db8::")) is None


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
def test_what_is_in_shadow_has_buckets_of_its_own(parts: dict[str, Any], name: str) -> None:
    """At rate:shadow: it takes nothing that real requests need."""
    found = matched(document(**parts), request())
    keys = found.take_request(identify(SOURCES, request())).keys
    enforced = len(found.limits)
    assert [tier.value for tier, _ in found.shadow] == name.split()
    assert all(key.startswith("rate:shadow:") for key in keys[enforced:])
    assert not any(key.startswith("rate:shadow:") for key in keys[:enforced])
    assert len(keys) == 3


async def test_a_blocked_user_is_refused_and_charged_nothing() -> None:
    """403 with its body, on an exempt route too."""
    policy = document(
        routes=[{"path": "/a", "exempt": True}], overrides={"users": {"alice": {"blocked": True}}}
    )
    limiter = OracleLimiter()
    answer = await check_over(limiter, policy=compiled(policy))(request())
    assert (answer.template.kind, answer.template.http_status, answer.template.body) == (
        ResponseKind.DENIED,
        403,
        '{"error":"blocked"}',
    )
    assert limiter.buckets == {}


async def test_a_policy_with_every_tier_off_asks_no_store() -> None:
    """Not even one that is away."""
    policy = compiled(document(tiers={"global": "off", "user": False, "user_api": "off"}))
    answer = await check_over(BrokenLimiter(), policy=policy)(request())
    assert answer.template.kind is ResponseKind.OK


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
    ],
)
async def test_a_store_that_is_away_is_answered_by_the_route_else_by_the_tiers_that_can_deny(
    user: dict[str, Any], route: dict[str, Any], reply: ResponseKind
) -> None:
    """The setting here is `deny` where `user` says nothing, else `allow`."""
    tiers = {"global": "off", "user": LIMIT | user, "user_api": "off"}
    policy = compiled(document(tiers=tiers, routes=[{"path": "/a"} | route]))
    setting = OnStoreError.ALLOW if user else OnStoreError.DENY
    assert (await check_over(BrokenLimiter(), setting, policy)(request())).template.kind is reply


def expected(data: dict[str, Any], asked: Request, key: str, kind_names: list[str]) -> dict[str, Any]:
    """What holds, read off the document by a scan: `key` is the identity's, `kind_names` its spellings."""
    routes = [
        (at, route)
        for at, route in enumerate(data.get("routes", []))
        if naive(split(route["path"]), split(asked.path))
        and asked.method in route.get("methods", [asked.method])
    ]
    at, route = routes[0] if routes else (None, {})
    name, override = _override(data.get("overrides", {}), asked, kind_names)
    soft = data.get("shadow", False) or override.get("shadow", False)
    if override.get("blocked") and not soft:
        return {"route": at, "override": name, "blocked": True}
    if override.get("exempt") or route.get("exempt"):
        return {"route": at, "override": name, "exempt": True}
    found: dict[str, Any] = {"route": at, "override": name, "cost": route.get("cost", 1) * MICRO}
    found["blocked_in_shadow"] = bool(override.get("blocked"))
    api = (route.get("api") or route["path"]) if route else asked.context.get("api") or "*"
    keys = {"global": "global", "user": f"user:{key}", "user_api": f"user:{key}:api:{api}"}
    answers = set()
    for tier in ("global", "user", "user_api"):
        limit = data["tiers"][tier]
        if not isinstance(limit, dict):
            continue
        in_shadow = soft or route.get("shadow", False) or limit.get("shadow", False)
        said = override.get(tier) or (route.get(tier) if tier == "user_api" else None) or limit
        prefix = "rate:shadow" if in_shadow else "rate"
        found[f"{prefix}:{keys[tier]}"] = (said["capacity"], _per_second(said))
        if not in_shadow:
            answers.add(limit.get("on_store_error"))
    found["answers"] = {route["on_store_error"]} if answers and "on_store_error" in route else answers
    return found


def _per_second(limit: dict[str, Any]) -> float:
    if "refill_rate" in limit:
        return float(limit["refill_rate"])
    number, unit = limit["rate"].split("/")
    return float(number) / {"s": 1, "min": 60, "h": 60 * 60, "day": 24 * 60 * 60}[unit]


def _override(
    overrides: dict[str, Any], asked: Request, kind_names: list[str]
) -> tuple[str | None, dict[str, Any]]:
    for kind in ("users", "addresses"):
        for name, override in overrides.get(kind, {}).items():
            if name in kind_names:
                return f"overrides.{kind}.{name}", override
    for kind, values in (("headers", asked.headers), ("context", asked.context)):
        for name, by_value in overrides.get(kind, {}).items():
            for value, override in by_value.items():
                if values.get(name) == value:
                    return f"overrides.{kind}.{name}.{value}", override
    return None, {}


def told(rules: MatchedRules, asked: Request) -> dict[str, Any]:
    """A match in the words of `expected`."""
    charge, keys, _ = rules.take_request(identify(SOURCES, asked))
    said: dict[str, Any] = {
        "route": None if rules.route is None else int(rules.route.name[7:-1]),
        "override": rules.override and rules.override.name,
    }
    if rules.blocked:
        return said | {"blocked": True}
    if rules.exempt_by:
        return said | {"exempt": True}
    return (
        said
        | {"cost": charge.cost, "blocked_in_shadow": rules.blocked_in_shadow}
        | dict(zip(keys, [tuple(limit) for limit in charge.limits + charge.shadow], strict=True))
        | {"answers": {answer and answer.value for answer in rules.on_store_error}}
    )


WHO = st.sampled_from(
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


ASKED = st.builds(
    Request,
    st.sampled_from(["GET", "POST", "HEAD"]),
    PATHS,
    st.just("host"),
    st.dictionaries(st.sampled_from(["x-plan", "x-team"]), VALUES),
    st.just(""),
    st.dictionaries(st.sampled_from(["plan", "team", "api"]), VALUES),
)


@given(VALID_DOCUMENTS, WHO, ASKED)
def test_a_compiled_policy_says_what_its_document_says(
    data: dict[str, Any], who: tuple[dict[str, str], str, str, list[str]], asked: Request
) -> None:
    """Rule by rule, limit by limit, key by key, as a reader of the document would find it."""
    user, peer, key, names = who
    asked = asked._replace(headers={**asked.headers, **user}, peer_address=peer)
    assert told(matched(data, asked), asked) == expected(data, asked, key, names)


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
async def test_no_policy_and_no_request_break_a_decision(
    data: dict[str, Any], asked: Request, store: type[OracleLimiter | BrokenLimiter]
) -> None:
    """Whatever both are, and with a store or without."""
    check = check_over(store(), policy=compiled(data))
    for _ in range(3):
        assert (await check(asked)).template.http_status in {200, 403, 429, 503}
