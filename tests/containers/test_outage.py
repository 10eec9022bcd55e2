"""Containers stop and come back: what a client sees, and what nobody has to repair."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from tests.containers.conftest import REPLICAS, Front
from tests.containers.engine import run
from tests.limits import STILL, statuses
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_without_redis_every_answer_is_503_and_with_it_everything_is_as_before(front: Front) -> None:
    """Never 429. Redis comes back with the limits and the buckets it had, and nobody restarts a replica."""
    await front.set_limits(**STILL)
    assert statuses(await front.get("spender", 10)) == {200: 3, 429: 7}
    await front.project.compose("stop", "redis")
    try:
        replies = await front.get("user1", 30)
    finally:
        await front.project.compose("start", "redis")
    assert statuses(replies) == {503: 30}
    assert {reply.text for reply in replies} == {'{"error":"rate limiter unavailable"}'}
    assert {reply.headers["content-type"] for reply in replies} == {"application/json"}

    async def normal() -> bool:
        # Two dozen at once reach every replica.
        return statuses(await front.get("spender", 24)) == {429: 24}

    await eventually(normal, "every replica knows again that the tokens are spent")
    assert statuses(await front.get("user2", 10)) == {200: 3, 429: 7}


@asynccontextmanager
async def traffic(front: Front) -> AsyncIterator[list[httpx.Response]]:
    """Requests all the time until the end of the block; yields the answers, which grow."""
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
    """So many answers have come since the call."""
    wanted = len(replies) + count

    async def came() -> bool:
        return len(replies) >= wanted

    await eventually(came, f"{count} answers more")


async def test_a_replica_that_is_stopped_is_not_missed(front: Front) -> None:
    """It ends by itself on SIGTERM, and no request fails meanwhile; when it is back, it is used."""
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

    await eventually(all_are_used, "requests reach the replica that came back")


async def test_a_replica_that_hangs_is_left_alone(front: Front) -> None:
    """Once Envoy's health check has failed, no request reaches it."""
    (hanging, *_) = await front.replicas()
    await run("docker", "pause", hanging.id)
    try:

        async def noticed() -> bool:
            flags = [host["health_flags"] for host in (await front.hosts()).values()]
            return sorted(flag == "healthy" for flag in flags) == [False, True, True]

        await eventually(noticed, "Envoy's health check fails for the replica that hangs")
        replies = await front.get("user1", 60)
    finally:
        await run("docker", "unpause", hanging.id)
    assert statuses(replies).keys() == {200, 429}
