"""Tests of the explanation of a decision, which takes no tokens."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.control.answers import ExplainedTier
from ratelimitd.core.bucket import Bucket
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.explain import Explanation, explain, keys_of
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import Matcher
from ratelimitd.core.model import MICRO, Identity, Limit, Request
from ratelimitd.core.policy import Override, PolicySet, Route, TierRule
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName
from ratelimitd.display import tier_notes
from tests.core.fakes import FLAT_POLICY, OracleLimiter

NOW = 1_800_000_000_000_000
IDENTITY = Identity("header", "user1")
REQUEST = Request("GET", "/api/search", "", {}, "", {"api": "/api/*"})
SEARCH = Route("routes[0]", "/api/search", None, "search", cost=2)


def explanation(policy: PolicySet = FLAT_POLICY, **tokens: float) -> Explanation:
    """Explains REQUEST when the named tiers hold these numbers of tokens and the others are full."""
    keys = {
        "global": "rate:global",
        "user": "rate:user:user1",
        "user_api": "rate:user:user1:api:/api/*",
    }
    buckets = {keys[name]: Bucket(int(left * MICRO), NOW) for name, left in tokens.items()}
    return explain(policy, REQUEST, IDENTITY, KeyLayout("rate"), buckets, NOW)


def test_an_allowed_request_shows_how_many_more_would_be_allowed() -> None:
    got = explanation(user=2.5)
    assert (got.outcome, got.more, got.retry_after_us, got.denied_by) == ("allowed", 2, None, None)
    assert got.reason == "every tier can pay 1"
    assert [(state.name, state.tokens, state.enough) for state in got.tiers] == [
        (TierName.GLOBAL, 10 * MICRO, True),
        (TierName.USER, 2_500_000, True),
        (TierName.USER_API, 3 * MICRO, True),
    ]
    assert got.tiers[1].reset_after_us == 2_500_000


def test_a_denied_request_shows_the_tier_with_the_longest_wait() -> None:
    got = explanation(user=0.5, user_api=0.25)
    assert (got.outcome, got.denied_by, got.retry_after_us, got.more) == (
        "denied",
        TierName.USER_API,
        750_000,
        0,
    )
    assert got.reason == "user_api holds 0.250 tokens and the request costs 1"
    assert [state.enough for state in got.tiers] == [True, False, False]


def test_the_explanation_names_the_route_and_the_override() -> None:
    override = Override("overrides.users.user1", limits={TierName.USER: Limit(100, 1.0)})
    policy = replace(FLAT_POLICY, routes=RouteTable([SEARCH]), by_identity={"user1": override})
    got = explanation(policy)
    assert (got.route, got.override, got.cost) == ("routes[0]", "overrides.users.user1", 2 * MICRO)
    assert (got.tiers[1].limit, got.tiers[2].key) == (Limit(100, 1.0), "rate:user:user1:api:search")


def test_a_tier_that_is_leased_shows_how_much_replicas_may_hold() -> None:
    rule = TierRule(Limit(10, 5.0), lease=True)
    policy = replace(FLAT_POLICY, tiers={**FLAT_POLICY.tiers, TierName.GLOBAL: rule})
    buckets = {"rate:global": Bucket(4 * MICRO, NOW)}
    for one, leased in ((policy, 6 * MICRO), (FLAT_POLICY, 0)):
        got = explain(one, REQUEST, IDENTITY, KeyLayout("rate"), buckets, NOW)
        assert [state.leased_up_to for state in got.tiers] == [leased, 0, 0]
        notes = [*tier_notes(ExplainedTier.of(state, None) for state in got.tiers)]
        assert [note.partition(" tokens in leases")[0] for note in notes] == (
            ["of rate:global, replicas may hold up to 6"] if leased else []
        )


def test_a_request_that_uses_no_bucket_has_a_reason() -> None:
    blocked = replace(FLAT_POLICY, by_identity={"user1": Override("overrides.users.user1", blocked=True)})
    exempt = replace(FLAT_POLICY, routes=RouteTable([replace(SEARCH, exempt=True)]))
    nothing = replace(FLAT_POLICY, tiers={})
    assert [(got.outcome, got.reason, got.tiers) for got in map(explanation, (blocked, exempt, nothing))] == [
        ("blocked", "overrides.users.user1 blocks it", ()),
        ("exempt", "routes[0] exempts it", ()),
        ("allowed", "no tier is on", ()),
    ]


def test_the_explanation_names_a_tier_in_shadow_that_would_deny() -> None:
    policy = replace(
        FLAT_POLICY,
        tiers={**FLAT_POLICY.tiers, TierName.USER: replace(FLAT_POLICY.tiers[TierName.USER], shadow=True)},
    )
    buckets = {"rate:shadow:user:user1": Bucket(0, NOW)}
    got = explain(policy, REQUEST, IDENTITY, KeyLayout("rate"), buckets, NOW)
    assert (got.outcome, got.shadow) == ("allowed", "tiers.user")
    assert got.reason == "every tier that can deny can pay 1; tiers.user is in shadow and would deny"
    assert "rate:shadow:user:user1" in keys_of(policy, REQUEST, IDENTITY, KeyLayout("rate"))


def test_a_cost_above_a_capacity_has_no_wait() -> None:
    override = Override("overrides.users.user1", limits={TierName.USER: Limit(1, 1.0)})
    policy = replace(FLAT_POLICY, routes=RouteTable([SEARCH]), by_identity={"user1": override})
    for tokens in (1, 0):
        got = explanation(policy, user=tokens, **{"global": 0})
        assert (got.outcome, got.denied_by, got.retry_after_us) == ("denied", TierName.USER, None)
        assert got.reason == "user has a capacity of 1 and the request costs 2"
        assert [tier.retry_after_us for tier in got.tiers] == [2 * MICRO, None, 0]


def test_the_wait_includes_the_time_until_a_last_in_the_future() -> None:
    """Tokens that are there can be spent at once. A tier that is full has nothing to wait for."""
    ahead_us = 600 * MICRO
    buckets = {
        "rate:global": Bucket(10 * MICRO, NOW + ahead_us),
        "rate:user:user1": Bucket(0, NOW + ahead_us),
        "rate:user:user1:api:/api/*": Bucket(2 * MICRO, NOW + ahead_us),
    }
    got = explain(FLAT_POLICY, REQUEST, IDENTITY, KeyLayout("rate"), buckets, NOW)
    assert (got.denied_by, got.retry_after_us) == (TierName.USER, ahead_us + MICRO)
    assert got.reason == "user holds 0.000 tokens and the request costs 1"
    assert [(one.tokens, one.retry_after_us, one.reset_after_us) for one in got.tiers] == [
        (10 * MICRO, 0, 0),
        (0, ahead_us + MICRO, ahead_us + 5 * MICRO),
        (2 * MICRO, 0, ahead_us + MICRO),
    ]
    assert {one.no_refill_for_us for one in got.tiers} == {ahead_us}


@given(st.lists(st.integers(-3 * MICRO, 3 * MICRO), min_size=1, max_size=12), st.booleans())
async def test_the_explanation_agrees_with_the_decision(gaps_us: list[int], in_shadow: bool) -> None:  # noqa: FBT001 - hypothesis draws it
    """`more` is exactly the number of requests that are allowed at this instant. The clock may step back."""
    policy = replace(FLAT_POLICY, shadow=in_shadow)
    limiter = OracleLimiter()
    rules = Matcher(policy, KeyLayout("rate")).match(REQUEST, IDENTITY)
    request = rules.take_request(IDENTITY)
    for gap_us in gaps_us:
        limiter.now_us += gap_us
        explained = explain(policy, REQUEST, IDENTITY, KeyLayout("rate"), limiter.buckets, limiter.now_us)
        outcome = await limiter.take(request)
        assert (explained.outcome == "allowed") == outcome.allowed
        if not outcome.allowed:
            denial = denying_tier(rules.limits, MICRO, outcome.tokens)
            assert (explained.denied_by, explained.retry_after_us) == denial
            tier = next(tier for tier in explained.tiers if tier.name == explained.denied_by)
            assert tier.retry_after_us == explained.retry_after_us
    explained = explain(policy, REQUEST, IDENTITY, KeyLayout("rate"), limiter.buckets, limiter.now_us)
    if explained.more is not None:
        outcomes = [await limiter.take(request) for _ in range(explained.more + 1)]
        assert [outcome.allowed for outcome in outcomes] == [True] * explained.more + [False]
