"""Tests of whole decisions, from the request to the response, with in-memory ports."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.model import MICRO, Limit, OnStoreError, Outcome, Request
from ratelimitd.core.policy import Override, Route
from ratelimitd.core.response import Response, ResponseKind
from ratelimitd.core.routes import RouteTable
from ratelimitd.core.tiers import TierName
from tests.core.fakes import FLAT_POLICY, BrokenLimiter, FixedLimiter, OracleLimiter, check_over
from tests.core.response_fields import headers_of, metadata_of


def request(user: str = "user1", api: str | None = "/api/*", content_type: str = "") -> Request:
    """Returns a request of this user."""
    headers = {"x-user-id": user, "content-type": content_type}
    context = {} if api is None else {"api": api}
    return Request("GET", "/api/ping", "host", headers, "203.0.113.9", context)


async def send(check: Callable[[Request], Awaitable[Response]], user: str, times: int) -> list[Response]:
    """Sends this many requests of a user, one after the other."""
    return [await check(request(user)) for _ in range(times)]


def count_allowed(responses: list[Response]) -> int:
    """Returns how many requests were allowed."""
    return sum(response.template.kind is ResponseKind.OK for response in responses)


async def test_a_user_over_the_limit_is_denied_until_tokens_refill() -> None:
    limiter = OracleLimiter()
    check = check_over(limiter)
    assert count_allowed(await send(check, "user1", 10)) == 3
    tokens = {key: bucket.tokens for key, bucket in limiter.buckets.items()}
    assert tokens == {
        "rate:global": 7 * MICRO,
        "rate:user:user1": 2 * MICRO,
        "rate:user:user1:api:/api/*": 0,
    }
    limiter.now_us += 2 * MICRO
    assert count_allowed(await send(check, "user1", 10)) == 2


async def test_the_global_bucket_limits_all_users_together() -> None:
    """A request that the global tier denies does not charge the buckets of its user."""
    limiter = OracleLimiter()
    check = check_over(limiter)
    responses = {user: await send(check, user, 3) for user in ("u1", "u2", "u3", "u4", "u5")}
    assert [count_allowed(got) for got in responses.values()] == [3, 3, 3, 1, 0]
    assert "rate:user:u5" not in limiter.buckets
    assert headers_of(responses["u5"][0])["x-ratelimit-tier"] == "global"


async def test_an_allowed_response_reports_the_limits_and_the_tokens_left() -> None:
    response = await check_over(OracleLimiter())(request())
    assert (response.template.kind, response.template.http_status, response.template.body) == (
        ResponseKind.OK,
        200,
        "",
    )
    assert headers_of(response) == {
        "ratelimit-policy": '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3',
        "ratelimit": '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1',
    }
    assert metadata_of(response) == {
        "outcome": "allowed",
        "tier": "user_api",
        "remaining": 2,
        "identity": "header",
        "policy": "flat",
    }


async def test_a_denied_response_names_the_tier_and_the_wait() -> None:
    limiter = OracleLimiter()
    check = check_over(limiter)
    await send(check, "user1", 3)
    limiter.now_us += 250_000
    response = await check(request())
    assert (response.template.kind, response.template.http_status) == (ResponseKind.DENIED, 429)
    assert response.template.body == '{"error":"rate limit exceeded"}'
    assert headers_of(response) == {
        "ratelimit-policy": '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3',
        "ratelimit": '"global";r=7;t=3, "user";r=2;t=3, "user_api";r=0;t=3',
        "content-type": "application/json",
        "retry-after": "1",
        "x-ratelimit-tier": "user_api",
        "x-envoy-ratelimited": "true",
    }
    assert metadata_of(response)["outcome"] == "denied"


async def test_a_denial_waits_for_a_last_in_the_future() -> None:
    """Obeying retry-after once is enough. The tokens left are never negative."""
    limiter = OracleLimiter()
    limiter.buckets["rate:user:user1"] = Bucket(0, limiter.now_us + 600 * MICRO)
    check = check_over(limiter)
    fields = headers_of(await check(request()))
    assert (fields["retry-after"], fields["x-ratelimit-tier"]) == ("601", "user")
    assert fields["ratelimit"] == '"global";r=10;t=0, "user";r=0;t=605, "user_api";r=3;t=0'
    limiter.now_us += 601 * MICRO
    assert count_allowed(await send(check, "user1", 1)) == 1


async def test_a_denial_without_a_wait_that_helps_has_no_retry_after() -> None:
    """An override's capacity is below the cost of the route, also while `global` is known to be empty."""
    route = Route("routes[0]", "/**", None, "any", cost=2)
    override = Override("overrides.users.user1", limits={TierName.USER: Limit(1, 1.0)})
    policy = replace(FLAT_POLICY, routes=RouteTable([route]), by_identity={"user1": override})
    unknown: tuple[int | None, ...] = (0, None, None)
    for limiter in (OracleLimiter(), FixedLimiter(Outcome(allowed=False, tokens=unknown))):
        response = await check_over(limiter, policy=policy)(request())
        assert response.template.http_status == 429
        fields = headers_of(response)
        assert fields["x-ratelimit-tier"] == metadata_of(response)["tier"] == "user"
        assert "retry-after" not in fields


async def test_ratelimit_omits_a_tier_whose_tokens_are_unknown() -> None:
    """RateLimit-Policy still lists it, and retry-after is the longest wait of the known tiers."""
    outcome = Outcome(allowed=False, tokens=(None, 750_000, 0))
    response = await check_over(FixedLimiter(outcome))(request())
    headers = headers_of(response)
    assert headers["ratelimit-policy"] == '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3'
    assert headers["ratelimit"] == '"user";r=0;t=5, "user_api";r=0;t=3'
    assert (headers["x-ratelimit-tier"], headers["retry-after"]) == ("user_api", "1")
    assert (response.template.http_status, metadata_of(response)["tier"]) == (429, "user_api")


async def test_a_denial_may_know_the_tokens_of_a_single_tier() -> None:
    """This happens when a new user sends a request while the global bucket is known to be empty."""
    outcome = Outcome(allowed=False, tokens=(0, None, None))
    headers = headers_of(await check_over(FixedLimiter(outcome))(request()))
    assert (headers["ratelimit"], headers["x-ratelimit-tier"]) == ('"global";r=0;t=10', "global")


async def test_only_a_grpc_client_gets_a_grpc_status() -> None:
    check = check_over(OracleLimiter())
    await send(check, "user1", 3)
    denied = headers_of(await check(request(content_type="application/grpc+proto")))
    assert denied["grpc-status"] == "8"
    undecided = headers_of(await check_over(BrokenLimiter())(request(content_type="application/grpc")))
    assert undecided["grpc-status"] == "14"
    assert "grpc-status" not in headers_of(await check(request(content_type="application/json")))


@pytest.mark.parametrize("api", [None, ""])
async def test_requests_without_a_route_pattern_share_one_bucket(api: str | None) -> None:
    limiter = OracleLimiter()
    await check_over(limiter)(request(api=api))
    assert "rate:user:user1:api:*" in limiter.buckets


@pytest.mark.parametrize(
    ("setting", "reply", "status"),
    [
        (OnStoreError.DENY, ResponseKind.DENIED, 503),
        (OnStoreError.ENVOY, ResponseKind.ERROR, 503),
        (OnStoreError.ALLOW, ResponseKind.OK, 200),
    ],
)
async def test_on_store_error_decides_the_response_in_an_outage(
    setting: OnStoreError, reply: ResponseKind, status: int
) -> None:
    response = await check_over(BrokenLimiter(), setting)(request())
    assert (response.template.kind, response.template.http_status) == (reply, status)
    assert metadata_of(response) == {"outcome": "undecided", "identity": "header"}
    assert response.template.body == (
        "" if reply is ResponseKind.OK else '{"error":"rate limiter unavailable"}'
    )
