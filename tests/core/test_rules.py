"""Decisions under a policy with rules: routes, overrides, shadow, tiers that are off, the store away."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.core.model import MICRO, Limit, OnStoreError, Request
from ratelimitd.core.policy import Override, PolicySet, Route, TierRule
from ratelimitd.core.response import Response, ResponseKind
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName
from ratelimitd.rollout.shadow_counts import ShadowCounts
from tests.core.answers import headers_of, metadata_of
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, OracleLimiter, check_over

PATH = "/api/search"


def request(path: str = PATH, user: str = "user1", **context: str) -> Request:
    """A request of that user, on a route of Envoy's that names its pattern."""
    return Request("GET", path, "host", {"x-user-id": user}, "203.0.113.9", {"api": "/api/*"} | context)


def with_route(policy: PolicySet = FLAT_POLICY, **terms: Any) -> PolicySet:
    """The seed's policy with one route for PATH."""
    route = Route(**({"name": "routes[0]", "pattern": PATH, "methods": None, "api": PATH} | terms))
    return replace(policy, routes=RouteTable([route]))


def with_tier(name: TierName, **terms: Any) -> PolicySet:
    """The seed's policy with other terms for one tier."""
    return replace(FLAT_POLICY, tiers={**FLAT_POLICY.tiers, name: replace(FLAT_POLICY.tiers[name], **terms)})


def with_override(**terms: Any) -> PolicySet:
    """The seed's policy with an override for user1."""
    return replace(FLAT_POLICY, by_identity={"user1": Override("overrides.users.user1", **terms)})


def tokens(limiter: OracleLimiter) -> dict[str, float]:
    """The buckets that were written, in tokens."""
    return {key: bucket.tokens / MICRO for key, bucket in limiter.buckets.items()}


async def answers(limiter: OracleLimiter, policy: PolicySet, times: int) -> list[Response]:
    """So many requests, one after the other."""
    check = check_over(limiter, policy=policy)
    return [await check(request()) for _ in range(times)]


async def test_a_route_names_the_bucket_has_its_own_limit_and_costs_what_it_says() -> None:
    """The pattern that Envoy names counts only where the policy has no route."""
    limiter = OracleLimiter()
    await answers(limiter, with_route(cost=2, limits={TierName.USER_API: Limit(4, 1.0)}, api="search"), 3)
    assert tokens(limiter) == {"rate:global": 6, "rate:user:user1": 1, "rate:user:user1:api:search": 0}
    await check_over(limiter, policy=with_route())(request("/api/other"))
    assert tokens(limiter)["rate:user:user1:api:/api/*"] == 2


async def test_a_cost_of_0_takes_nothing_and_is_never_denied() -> None:
    """It tells where the client stands, also when that is at nothing."""
    limiter = OracleLimiter()
    check = check_over(limiter, policy=with_route(cost=0, api="/api/*"))
    for _ in range(3):
        await check(request("/api/other"))
    before = tokens(limiter)
    answer = await check(request())
    assert answer.template.kind is ResponseKind.OK
    assert headers_of(answer)["ratelimit"] == '"global";r=7;t=3, "user";r=2;t=3, "user_api";r=0;t=3'
    assert tokens(limiter) == before


@pytest.mark.parametrize("policy", [with_route(exempt=True), with_override(exempt=True)])
async def test_what_is_exempt_goes_on_without_a_bucket_or_a_store(policy: PolicySet) -> None:
    """No headers, for there is nothing to tell."""
    answer = await check_over(BrokenLimiter(), policy=policy)(request())
    assert (answer.template.kind, headers_of(answer)) == (ResponseKind.OK, {})
    assert metadata_of(answer) == {"outcome": "exempt", "identity": "header", "policy": "flat"}


async def test_who_is_blocked_gets_403_whatever_the_route_says_and_without_a_store() -> None:
    """It is no 429: waiting does not help. A gRPC client learns PERMISSION_DENIED."""
    policy = replace(with_override(blocked=True), routes=with_route(exempt=True).routes)
    check = check_over(BrokenLimiter(), policy=policy)
    answer = await check(request())
    assert (answer.template.kind, answer.template.http_status, answer.template.body) == (
        ResponseKind.DENIED,
        403,
        '{"error":"blocked"}',
    )
    assert metadata_of(answer)["outcome"] == "blocked"
    grpc = request()._replace(headers={"x-user-id": "user1", "content-type": "application/grpc"})
    assert headers_of(await check(grpc))["grpc-status"] == "7"
    assert (
        await check_over(OracleLimiter(), policy=policy)(request(user="user2"))
    ).template.kind is ResponseKind.OK


async def test_a_tier_in_shadow_is_counted_told_and_denies_nobody() -> None:
    """Its bucket is one of its own; the other tiers are charged and enforced as ever."""
    limiter, shadow = OracleLimiter(), ShadowCounts()
    policy = with_tier(TierName.USER_API, shadow=True)
    check = check_over(limiter, policy=policy, observers=[shadow])
    got = [await check(request()) for _ in range(6)]
    assert [answer.template.http_status for answer in got] == [200] * 5 + [429]
    assert [metadata_of(answer).get("shadow") for answer in got] == [
        *[None] * 3,
        "tiers.user_api",
        "tiers.user_api",
        None,
    ]
    assert shadow.counts == {"tiers.user_api": 2}
    assert tokens(limiter) == {
        "rate:global": 5,
        "rate:user:user1": 0,
        "rate:shadow:user:user1:api:/api/*": 0,
    }
    assert "user_api" not in headers_of(got[0])["ratelimit"]


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        (with_route(shadow=True, api="/api/*"), "routes[0]"),
        (with_override(shadow=True), "overrides.users.user1"),
        (replace(FLAT_POLICY, shadow=True), "policy"),
    ],
)
async def test_what_is_in_shadow_spends_nothing_that_real_requests_need(policy: PolicySet, name: str) -> None:
    """All of its tiers have buckets of their own; what would have been denied is told by its name."""
    limiter, shadow = OracleLimiter(), ShadowCounts()
    check = check_over(limiter, policy=policy, observers=[shadow])
    got = [await check(request()) for _ in range(5)]
    assert {answer.template.kind for answer in got} == {ResponseKind.OK}
    assert shadow.counts == {name: 2}
    assert [metadata_of(answer).get("shadow") for answer in got[2:4]] == [None, name]
    assert {key.split(":")[1] for key in limiter.buckets} == {"shadow"}


async def test_a_block_in_shadow_is_told_and_refuses_nobody() -> None:
    """So a block can be tried too."""
    shadow = ShadowCounts()
    policy = with_override(blocked=True, shadow=True)
    answer = await check_over(OracleLimiter(), policy=policy, observers=[shadow])(request())
    assert (answer.template.kind, metadata_of(answer)["shadow"]) == (ResponseKind.OK, "overrides.users.user1")
    assert shadow.counts == {"overrides.users.user1": 1}


async def test_a_tier_that_is_off_has_no_bucket_and_with_all_off_no_store_is_asked() -> None:
    """And nothing is told of it."""
    limiter = OracleLimiter()
    user_only = replace(FLAT_POLICY, tiers={TierName.USER: TierRule(Limit(5, 1.0))})
    (answer,) = await answers(limiter, user_only, 1)
    assert tokens(limiter) == {"rate:user:user1": 4}
    assert headers_of(answer)["ratelimit"] == '"user";r=4;t=1'
    answer = await check_over(BrokenLimiter(), policy=replace(FLAT_POLICY, tiers={}))(request())
    assert (answer.template.kind, metadata_of(answer)["outcome"]) == (ResponseKind.OK, "allowed")


async def test_a_dry_run_gets_the_real_answer_and_takes_nothing() -> None:
    """Neither does it count in shadow."""
    limiter, shadow = OracleLimiter(), ShadowCounts()
    policy = with_tier(TierName.USER_API, shadow=True)
    check = check_over(limiter, policy=policy, observers=[shadow])
    for _ in range(5):
        await check(request())
    before, shadow.counts = tokens(limiter), Counter()
    dry = await check(request(**{DRY_RUN_CONTEXT: "true"}))
    assert (dry.template.http_status, metadata_of(dry)["tier"]) == (429, "user")
    limiter.now_us += 2 * MICRO
    dry = await check(request(**{DRY_RUN_CONTEXT: "true"}))
    assert headers_of(dry)["ratelimit"] == '"global";r=7;t=3, "user";r=2;t=3'
    assert (tokens(limiter), shadow.counts) == (before, {})


STORE_AWAY = [
    # The setting, the policy, the answer's status and reply.
    (OnStoreError.DENY, FLAT_POLICY, 503, ResponseKind.DENIED),
    (
        OnStoreError.ALLOW,
        with_tier(TierName.USER, on_store_error=OnStoreError.DENY),
        503,
        ResponseKind.DENIED,
    ),
    (
        OnStoreError.DENY,
        with_tier(TierName.USER, on_store_error=OnStoreError.ALLOW),
        503,
        ResponseKind.DENIED,
    ),
    (
        OnStoreError.ALLOW,
        with_tier(TierName.USER, on_store_error=OnStoreError.ENVOY),
        503,
        ResponseKind.ERROR,
    ),
    (OnStoreError.DENY, with_route(on_store_error=OnStoreError.ALLOW), 200, ResponseKind.OK),
    (OnStoreError.ALLOW, with_route(on_store_error=OnStoreError.DENY), 503, ResponseKind.DENIED),
    (OnStoreError.DENY, replace(FLAT_POLICY, shadow=True), 200, ResponseKind.OK),
]


@pytest.mark.parametrize(("setting", "policy", "status", "reply"), STORE_AWAY)
async def test_the_store_away_is_answered_by_the_route_else_by_the_strictest_tier(
    setting: OnStoreError, policy: PolicySet, status: int, reply: ResponseKind
) -> None:
    """A tier that names no answer has the setting's; what is in shadow cannot refuse."""
    answer = await check_over(BrokenLimiter(), setting, policy)(request())
    assert (answer.template.http_status, answer.template.kind) == (status, reply)
    assert metadata_of(answer)["outcome"] == "undecided"
