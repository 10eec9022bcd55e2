"""Tests of limits through Envoy, with three replicas that share the buckets in Redis."""

import asyncio
import json
import math

import pytest

from tests.containers.conftest import Front
from tests.containers.forms import REPLICAS
from tests.eventually import eventually
from tests.example_limits import EXAMPLE_LIMITS, KEY, NO_REFILL, assert_one_bucket, limits_json, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_three_of_ten_concurrent_requests_are_allowed(front: Front) -> None:
    """The seven denials take no tokens: each bucket lost exactly three."""
    await front.set_limits(**NO_REFILL)
    replies = await front.get("user1", 10)
    assert statuses(replies) == {200: 3, 429: 7}
    assert {reply.text for reply in replies if reply.status_code == 429} == {
        '{"error":"rate limit exceeded"}'
    }
    keys = ("rate:global", "rate:user:user1", "rate:user:user1:api:/api/*")
    left = [(await front.bucket(key))[0] for key in keys]
    assert left == pytest.approx([7, 2, 0], abs=0.01)


async def test_with_the_example_limits_two_more_are_allowed_after_two_seconds(front: Front) -> None:
    """Times are those of the Redis clock. The buckets also contain the refill during the requests."""
    begun_s = await front.now_s()
    passed = statuses(await front.get("user1", 10))[200]
    assert 3 <= passed <= 3 + math.floor(await front.now_s() - begun_s)
    for key, capacity in (("rate:global", 10), ("rate:user:user1", 5)):
        tokens, last_s = await front.bucket(key)
        assert capacity - passed <= tokens <= capacity - passed + last_s - begun_s

    tokens, last_s = await front.bucket("rate:user:user1:api:/api/*")

    async def two_seconds_passed() -> bool:
        return tokens + await front.now_s() - last_s >= 2

    await eventually(two_seconds_passed, "two seconds on Redis's clock")
    replies = await front.get("user1", 10)
    ended_s = await front.now_s()
    assert statuses(replies).keys() == {200, 429}
    assert 2 <= statuses(replies)[200] <= math.floor(tokens + ended_s - last_s)


async def test_three_replicas_share_one_bucket(front: Front) -> None:
    """300 requests of 60 users compete for 50 tokens, and each replica handles some."""
    await front.set_limits(global_capacity=50, user_capacity=100, user_api_capacity=100, **NO_REFILL)
    before = await front.hosts()
    replies = await asyncio.gather(*(front.get(f"user{n}", 5) for n in range(60)))
    assert_one_bucket([reply for got in replies for reply in got], 50)
    after = await front.hosts()
    assert len(after) == REPLICAS
    assert all(int(after[at]["rq_total"]) > int(before[at]["rq_total"]) for at in after)


async def test_no_window_admits_more_than_capacity_plus_refill(front: Front) -> None:
    """The refill is measured with the Redis clock, over many bursts."""
    await front.set_limits(global_rate=5)
    begun_s = await front.now_s()
    bursts = [
        await asyncio.gather(*(front.get(f"user{burst}-{n}", 1) for n in range(30))) for burst in range(10)
    ]
    elapsed_s = await front.now_s() - begun_s
    replies = [reply for burst in bursts for got in burst for reply in got]
    assert 10 <= statuses(replies)[200] <= 10 + 5 * elapsed_s


async def test_the_limits_container_sets_the_example_only_if_no_limits_are_set(front: Front) -> None:
    """Limits that an operator set survive the next `docker compose up`."""
    project = front.project
    chosen = limits_json(global_capacity=11)
    await project.redis("SET", KEY, chosen)
    await project.compose("run", "--rm", "limits")
    assert await project.redis("GET", KEY) == [chosen]
    await project.redis("DEL", KEY)
    await project.compose("run", "--rm", "limits")
    (example,) = await project.redis("GET", KEY)
    assert json.loads(example) == EXAMPLE_LIMITS
