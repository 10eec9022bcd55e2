"""Tests of decisions with routes, overrides, shadow, tiers that are off, and an outage of the store."""

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
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, OracleLimiter, check_over
from tests.core.response_fields import headers_of, metadata_of

PATH = "/api/search"


def request(path: str = PATH, user: str = "user1", **context: str) -> Request:
    """Returns a request of this user, on an Envoy route that names the pattern /api/*."""
    return Request("GET", path, "host", {"x-user-id": user}, "203.0.113.9", {"api": "/api/*"} | context)


def with_route(policy: PolicySet = FLAT_POLICY, **changes: Any) -> PolicySet:
    """Returns the policy with one route for PATH."""
    route = Route(**({"name": "routes[0]", "pattern": PATH, "methods": None, "api": PATH} | changes))
    return replace(policy, routes=RouteTable([route]))


def with_tier(name: TierName, **changes: Any) -> PolicySet:
    """Returns FLAT_POLICY with a changed rule for one tier."""
    return replace(
        FLAT_POLICY, tiers={**FLAT_POLICY.tiers, name: replace(FLAT_POLICY.tiers[name], **changes)}
    )


def with_override(**changes: Any) -> PolicySet:
    """Returns FLAT_POLICY with an override for user1."""
    return replace(FLAT_POLICY, by_identity={"user1": Override("overrides.users.user1", **changes)})


def tokens(limiter: OracleLimiter) -> dict[str, float]:
    """Returns the tokens of each bucket that was written."""
    return {key: bucket.tokens / MICRO for key, bucket in limiter.buckets.items()}


async def send(limiter: OracleLimiter, policy: PolicySet, times: int) -> list[Response]:
    """Sends this many requests, one after the other."""
    check = check_over(limiter, policy=policy)
    return [await check(request()) for _ in range(times)]


async def test_a_route_sets_the_bucket_the_limit_and_the_cost() -> None:
    """The pattern that Envoy names is used only where the policy has no matching route."""
    limiter = OracleLimiter()
    await send(limiter, with_route(cost=2, limits={TierName.USER_API: Limit(4, 1.0)}, api="search"), 3)
    assert tokens(limiter) == {"rate:global": 6, "rate:user:user1": 1, "rate:user:user1:api:search": 0}
    await check_over(limiter, policy=with_route())(request("/api/other"))
    assert tokens(limiter)["rate:user:user1:api:/api/*"] == 2


async def test_a_request_of_cost_0_takes_no_tokens_and_is_never_denied() -> None:
    limiter = OracleLimiter()
    check = check_over(limiter, policy=with_route(cost=0, api="/api/*"))
    for _ in range(3):
        await check(request("/api/other"))
    before = tokens(limiter)
    response = await check(request())
    assert response.template.kind is ResponseKind.OK
    assert headers_of(response)["ratelimit"] == '"global";r=7;t=3, "user";r=2;t=3, "user_api";r=0;t=3'
    assert tokens(limiter) == before


@pytest.mark.parametrize("policy", [with_route(exempt=True), with_override(exempt=True)])
async def test_an_exempt_request_is_allowed_without_a_store(policy: PolicySet) -> None:
    """Its response has no RateLimit headers."""
    response = await check_over(BrokenLimiter(), policy=policy)(request())
    assert (response.template.kind, headers_of(response)) == (ResponseKind.OK, {})
    assert metadata_of(response) == {"outcome": "exempt", "identity": "header", "policy": "flat"}


async def test_blocked_requests_get_403_without_a_store() -> None:
    """The status is not 429, because waiting does not help. A gRPC client gets PERMISSION_DENIED."""
    policy = replace(with_override(blocked=True), routes=with_route(exempt=True).routes)
    check = check_over(BrokenLimiter(), policy=policy)
    response = await check(request())
    assert (response.template.kind, response.template.http_status, response.template.body) == (
        ResponseKind.DENIED,
        403,
        '{"error":"blocked"}',
    )
    assert metadata_of(response)["outcome"] == "blocked"
    grpc = request()._replace(headers={"x-user-id": "user1", "content-type": "application/grpc"})
    assert headers_of(await check(grpc))["grpc-status"] == "7"
    assert (
        await check_over(OracleLimiter(), policy=policy)(request(user="user2"))
    ).template.kind is ResponseKind.OK


async def test_a_tier_in_shadow_counts_its_denials_and_denies_nothing() -> None:
    """It has a separate bucket; the other tiers still charge and deny."""
    limiter, shadow = OracleLimiter(), ShadowCounts()
    policy = with_tier(TierName.USER_API, shadow=True)
    check = check_over(limiter, policy=policy, observers=[shadow])
    got = [await check(request()) for _ in range(6)]
    assert [response.template.http_status for response in got] == [200] * 5 + [429]
    assert [metadata_of(response).get("shadow") for response in got] == [
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
async def test_rules_in_shadow_charge_only_buckets_in_shadow(policy: PolicySet, name: str) -> None:
    """The metadata names the rule that would have denied."""
    limiter, shadow = OracleLimiter(), ShadowCounts()
    check = check_over(limiter, policy=policy, observers=[shadow])
    got = [await check(request()) for _ in range(5)]
    assert {response.template.kind for response in got} == {ResponseKind.OK}
    assert shadow.counts == {name: 2}
    assert [metadata_of(response).get("shadow") for response in got[2:4]] == [None, name]
    assert {key.split(":")[1] for key in limiter.buckets} == {"shadow"}


async def test_a_block_in_shadow_is_counted_and_denies_nothing() -> None:
    shadow = ShadowCounts()
    policy = with_override(blocked=True, shadow=True)
    response = await check_over(OracleLimiter(), policy=policy, observers=[shadow])(request())
    assert (response.template.kind, metadata_of(response)["shadow"]) == (
        ResponseKind.OK,
        "overrides.users.user1",
    )
    assert shadow.counts == {"overrides.users.user1": 1}


async def test_a_tier_that_is_off_has_no_bucket() -> None:
    """With all tiers off, a decision does not use the store."""
    limiter = OracleLimiter()
    user_only = replace(FLAT_POLICY, tiers={TierName.USER: TierRule(Limit(5, 1.0))})
    (response,) = await send(limiter, user_only, 1)
    assert tokens(limiter) == {"rate:user:user1": 4}
    assert headers_of(response)["ratelimit"] == '"user";r=4;t=1'
    response = await check_over(BrokenLimiter(), policy=replace(FLAT_POLICY, tiers={}))(request())
    assert (response.template.kind, metadata_of(response)["outcome"]) == (ResponseKind.OK, "allowed")


async def test_a_dry_run_gets_the_real_response_and_takes_no_tokens() -> None:
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


OUTAGES = [
    # The setting, the policy, and the status and kind of the response.
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


@pytest.mark.parametrize(("setting", "policy", "status", "reply"), OUTAGES)
async def test_in_an_outage_the_route_decides_else_the_strictest_tier(
    setting: OnStoreError, policy: PolicySet, status: int, reply: ResponseKind
) -> None:
    """The setting applies to a tier without `on_store_error`. A rule in shadow cannot deny."""
    response = await check_over(BrokenLimiter(), setting, policy)(request())
    assert (response.template.http_status, response.template.kind) == (status, reply)
    assert metadata_of(response)["outcome"] == "undecided"
