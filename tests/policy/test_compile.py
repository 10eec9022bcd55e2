"""Compiling a policy document into the PolicySet that decisions use, and the flat form."""

import json
from dataclasses import asdict

import pytest

from ratelimitd.core.identity import address_key, plain_key
from ratelimitd.core.model import Limit, OnStoreError
from ratelimitd.core.policy import Override, Route, TierRule
from ratelimitd.core.tiers import TierName
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.flat_form import FlatPolicy, flat_form
from ratelimitd.policy.text import DEFAULT_TEXT, parse
from tests.policy.documents import TIERS, full

LIMIT = {"capacity": 7, "rate": "30/min"}


def test_tiers_keep_their_limits_and_answers_and_tiers_off_are_absent() -> None:
    user = {"capacity": 5, "rate": "300/min", "shadow": True, "on_store_error": "allow"}
    leased = TIERS["global"] | {"lease": "auto"}
    made = policy_set(full(tiers={"user_api": "off", "user": user, "global": leased}), "name")
    assert made.digest == "name"
    assert {name: asdict(rule) for name, rule in made.tiers.items()} == {
        TierName.GLOBAL: asdict(TierRule(Limit(500, 50.0), lease=True)),
        TierName.USER: asdict(TierRule(Limit(5, 5.0), shadow=True, on_store_error=OnStoreError.ALLOW)),
    }
    assert [*made.tiers] == [TierName.GLOBAL, TierName.USER]


def test_a_route_keeps_every_field_and_is_named_after_its_path() -> None:
    written = {"path": "/b", "methods": ["GET"], "api": "bees", "cost": 3, "user_api": LIMIT}
    written |= {"shadow": True, "exempt": True, "on_store_error": "envoy"}
    routes = policy_set(full(routes=[{"path": "/a/*"}, written]), "").routes
    assert routes is not None
    assert [asdict(route) for route in routes.rules] == [
        asdict(Route(name="routes[0]", pattern="/a/*", methods=None, api="/a/*")),
        asdict(
            Route(
                name="routes[1]",
                pattern="/b",
                methods=frozenset({"GET"}),
                api="bees",
                cost=3,
                limits={TierName.USER_API: Limit(7, 0.5)},
                exempt=True,
                shadow=True,
                on_store_error=OnStoreError.ENVOY,
            )
        ),
    ]
    assert policy_set(full(), "").routes is None


def test_an_override_is_keyed_by_identity_and_named_after_its_path() -> None:
    made = policy_set(
        full(
            overrides={
                "users": {"a b": {"user": LIMIT, "blocked": True}},
                "addresses": {"2001:db8::/64": {"user_api": LIMIT}},
                "headers": {"x-plan": {"gold": {"exempt": True}}},
                "context": {"plan": {"gold": {"shadow": True}}},
            }
        ),
        "",
    )
    assert {key: asdict(one) for key, one in made.by_identity.items()} == {
        plain_key("a b"): asdict(
            Override("overrides.users.a b", limits={TierName.USER: Limit(7, 0.5)}, blocked=True)
        ),
        address_key("2001:db8::1"): asdict(
            Override("overrides.addresses.2001:db8::/64", limits={TierName.USER_API: Limit(7, 0.5)})
        ),
    }
    gold = made.by_header["x-plan"]["gold"]
    assert asdict(gold) == asdict(Override("overrides.headers.x-plan.gold", exempt=True))
    gold = made.by_context["plan"]["gold"]
    assert asdict(gold) == asdict(Override("overrides.context.plan.gold", shadow=True))


def test_the_flat_form_has_only_the_limits_of_the_tiers() -> None:
    flat = parse(DEFAULT_TEXT)
    assert isinstance(flat, FlatPolicy)
    assert flat_form(flat) is flat
    assert flat_form(full(routes=[{"path": "/a"}], overrides={"users": {"a": {"exempt": True}}})) == flat
    assert flat_form(full(tiers=TIERS | {"user": {"capacity": 100, "rate": "300/min"}})) == flat


@pytest.mark.parametrize("tier", ["global", "user", "user_api"])
def test_a_policy_with_a_tier_off_has_no_flat_form(tier: str) -> None:
    assert flat_form(full(tiers=TIERS | {tier: "off"})) is None


def test_the_json_of_a_flat_policy_is_the_same_policy() -> None:
    """What GET /admin/config answers can be sent back."""
    flat = flat_form(full())
    assert flat is not None
    assert parse(json.dumps(flat.model_dump())) == flat
