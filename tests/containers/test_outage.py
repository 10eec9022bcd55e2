"""Tests of containers that stop and start again, as seen by a client."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from tests.containers.conftest import REPLICAS, Front
from tests.containers.engine import run
from tests.eventually import eventually
from tests.example_limits import NO_REFILL, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_all_responses_are_503_without_redis_and_normal_afterwards(front: Front) -> None:
    """Redis restarts with its limits and buckets, and the replicas need no restart."""
    await front.set_limits(**NO_REFILL, global_capacity=1000)
    assert statuses(await front.get("spender", 10)) == {200: 3, 429: 7}
    await front.project.compose("stop", "redis")
    try:
        replies = await front.get("user1", 30)
    finally:
        await front.project.compose("start", "redis")
    assert statuses(replies) == {503: 30}
    assert {reply.text for reply in replies} == {'{"error":"rate limiter unavailable"}'}
    assert {reply.headers["content-type"] for reply in replies} == {"application/json"}

    rounds = itertools.count(1)

    async def reconnected() -> bool:
        # 24 concurrent requests reach all replicas. New users are not in a deny cache, which needs no store.
        round_ = next(rounds)
        users = (front.get(f"new-{round_}-{n}", 1) for n in range(24))
        return statuses([reply for (reply,) in await asyncio.gather(*users)]) == {200: 24}

    await eventually(reconnected, "all replicas take tokens in the restarted store")
    assert statuses(await front.get("spender", 24)) == {429: 24}
    assert statuses(await front.get("user2", 10)) == {200: 3, 429: 7}


@asynccontextmanager
async def traffic(front: Front) -> AsyncIterator[list[httpx.Response]]:
    """Sends requests until the end of the block; yields the growing list of responses."""
    replies: list[httpx.Response] = []

    async def send() -> None:
        while True:
            replies.extend(await front.get("steady", 3))

    task = asyncio.create_task(send())
    try:
        yield replies
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until_more(replies: list[httpx.Response], count: int) -> None:
    """Waits for this many new responses."""
    expected = len(replies) + count

    async def arrived() -> bool:
        return len(replies) >= expected

    await eventually(arrived, f"{count} new responses")


async def test_no_request_fails_while_a_replica_stops(front: Front) -> None:
    """It exits on SIGTERM by itself. After its restart it gets requests again."""
    (leaving, *_) = await front.replicas()
    try:
        async with traffic(front) as replies:
            await until_more(replies, 20)
            await run("docker", "stop", leaving.id)
            await until_more(replies, 20)
        assert statuses(replies).keys() == {200, 429}
        await front.until_healthy_hosts(REPLICAS - 1)
        (stopped,) = [c for c in await front.project.containers("ratelimitd") if c.id == leaving.id]
        assert (stopped.state, stopped.exit_code) == ("exited", 0)
    finally:
        await run("docker", "start", leaving.id)
    await front.until_healthy_hosts(REPLICAS)

    async def all_are_used() -> bool:
        await front.get("steady", 24)
        return all(int(host["rq_total"]) > 0 for host in (await front.hosts()).values())

    await eventually(all_are_used, "requests reach the restarted replica")


async def test_a_hanging_replica_gets_no_requests(front: Front) -> None:
    """Envoy sends none to it once its health check has failed."""
    (hanging, *_) = await front.replicas()
    await run("docker", "pause", hanging.id)
    try:

        async def noticed() -> bool:
            flags = [host["health_flags"] for host in (await front.hosts()).values()]
            return sorted(flag == "healthy" for flag in flags) == [False, True, True]

        await eventually(noticed, "Envoy's health check of the hanging replica fails")
        replies = await front.get("user1", 60)
    finally:
        await run("docker", "unpause", hanging.id)
    assert statuses(replies).keys() == {200, 429}
