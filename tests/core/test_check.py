"""The decision as a whole, from request to answer, over the ports in memory."""

from collections.abc import Awaitable, Callable

import pytest

from ratelimitd.core.model import MICRO, OnStoreError, Outcome, Request
from ratelimitd.core.response import Response, ResponseKind
from tests.core.answers import headers_of, metadata_of
from tests.core.fakes import BrokenLimiter, FixedLimiter, OracleLimiter, check_over


def request(user: str = "user1", api: str | None = "/api/*", content_type: str = "") -> Request:
    """A request of that user."""
    headers = {"x-user-id": user, "content-type": content_type}
    context = {} if api is None else {"api": api}
    return Request("GET", "/api/ping", "host", headers, "203.0.113.9", context)


async def ask(check: Callable[[Request], Awaitable[Response]], user: str, times: int) -> list[Response]:
    """So many requests of a user, one after the other."""
    return [await check(request(user)) for _ in range(times)]


def allowed(answers: list[Response]) -> int:
    """How many went through."""
    return sum(answer.template.kind is ResponseKind.OK for answer in answers)


async def test_ten_requests_with_the_seed_limits() -> None:
    """Three pass, seven are denied, and each bucket lost exactly three tokens. After 2 s two more pass."""
    limiter = OracleLimiter()
    check = check_over(limiter)
    assert allowed(await ask(check, "user1", 10)) == 3
    tokens = {key: bucket.tokens for key, bucket in limiter.buckets.items()}
    assert tokens == {
        "rate:global": 7 * MICRO,
        "rate:user:user1": 2 * MICRO,
        "rate:user:user1:api:/api/*": 0,
    }
    limiter.now_us += 2 * MICRO
    assert allowed(await ask(check, "user1", 10)) == 2


async def test_the_global_bucket_bounds_all_users_and_the_denied_keep_their_tokens() -> None:
    """Five users ask for fifteen; ten pass; the last users' own buckets were not charged."""
    limiter = OracleLimiter()
    check = check_over(limiter)
    answers = {user: await ask(check, user, 3) for user in ("u1", "u2", "u3", "u4", "u5")}
    assert [allowed(got) for got in answers.values()] == [3, 3, 3, 1, 0]
    assert "rate:user:u5" not in limiter.buckets
    assert headers_of(answers["u5"][0])["x-ratelimit-tier"] == "global"


async def test_an_allowed_answer_tells_where_the_client_stands() -> None:
    """Both RateLimit fields, one item per tier, and what the access log needs."""
    answer = await check_over(OracleLimiter())(request())
    assert (answer.template.kind, answer.template.http_status, answer.template.body) == (
        ResponseKind.OK,
        200,
        "",
    )
    assert headers_of(answer) == {
        "ratelimit-policy": '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3',
        "ratelimit": '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1',
    }
    assert metadata_of(answer) == {
        "outcome": "allowed",
        "tier": "user_api",
        "remaining": 2,
        "identity": "header",
        "policy": "flat",
    }


async def test_a_denied_answer_says_who_said_no_and_when_to_come_back() -> None:
    """429, the fixed body, and every header of a denial."""
    limiter = OracleLimiter()
    check = check_over(limiter)
    await ask(check, "user1", 3)
    limiter.now_us += 250_000
    answer = await check(request())
    assert (answer.template.kind, answer.template.http_status) == (ResponseKind.DENIED, 429)
    assert answer.template.body == '{"error":"rate limit exceeded"}'
    assert headers_of(answer) == {
        "ratelimit-policy": '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3',
        "ratelimit": '"global";r=7;t=3, "user";r=2;t=3, "user_api";r=0;t=3',
        "content-type": "application/json",
        "retry-after": "1",
        "x-ratelimit-tier": "user_api",
        "x-envoy-ratelimited": "true",
    }
    assert metadata_of(answer)["outcome"] == "denied"


async def test_a_tier_of_which_nothing_is_known_is_left_out_of_what_is_left() -> None:
    """Its policy is told all the same, and the wait is that of the longest known tier."""
    outcome = Outcome(allowed=False, tokens=(None, 750_000, 0))
    answer = await check_over(FixedLimiter(outcome))(request())
    headers = headers_of(answer)
    assert headers["ratelimit-policy"] == '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3'
    assert headers["ratelimit"] == '"user";r=0;t=5, "user_api";r=0;t=3'
    assert (headers["x-ratelimit-tier"], headers["retry-after"]) == ("user_api", "1")
    assert (answer.template.http_status, metadata_of(answer)["tier"]) == (429, "user_api")


async def test_one_known_tier_is_enough_for_a_denial() -> None:
    """The widest alone, as when somebody new meets a global bucket that is known to be empty."""
    outcome = Outcome(allowed=False, tokens=(0, None, None))
    headers = headers_of(await check_over(FixedLimiter(outcome))(request()))
    assert (headers["ratelimit"], headers["x-ratelimit-tier"]) == ('"global";r=0;t=10', "global")


async def test_a_grpc_client_gets_a_grpc_status() -> None:
    """8 when denied, 14 when undecided; a browser gets neither."""
    check = check_over(OracleLimiter())
    await ask(check, "user1", 3)
    denied = headers_of(await check(request(content_type="application/grpc+proto")))
    assert denied["grpc-status"] == "8"
    undecided = headers_of(await check_over(BrokenLimiter())(request(content_type="application/grpc")))
    assert undecided["grpc-status"] == "14"
    assert "grpc-status" not in headers_of(await check(request(content_type="application/json")))


@pytest.mark.parametrize("api", [None, ""])
async def test_a_route_without_a_pattern_shares_one_bucket(api: str | None) -> None:
    """A raw path never becomes a key."""
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
async def test_a_store_that_is_away_is_answered_as_set(
    setting: OnStoreError, reply: ResponseKind, status: int
) -> None:
    """Never a 429, whatever the setting."""
    answer = await check_over(BrokenLimiter(), setting)(request())
    assert (answer.template.kind, answer.template.http_status) == (reply, status)
    assert metadata_of(answer) == {"outcome": "undecided", "identity": "header"}
    assert answer.template.body == (
        "" if reply is ResponseKind.OK else '{"error":"rate limiter unavailable"}'
    )
