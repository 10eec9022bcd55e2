"""Tests of containers that stop and start again, as seen by a client."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from tests.containers.conftest import Front
from tests.containers.engine import Container, inspect, run
from tests.containers.forms import REPLICAS
from tests.eventually import eventually
from tests.example_limits import NO_REFILL, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")

CALLERS = 3
MANY = 1_000_000


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


@dataclass(frozen=True)
class Reply:
    """The status of a request, and when it was sent and answered, in seconds of the event loop's clock."""

    status: int
    sent_s: float
    answered_s: float


@asynccontextmanager
async def traffic(front: Front) -> AsyncIterator[list[Reply]]:
    """Sends requests until the end of the block, CALLERS at a time; yields the growing list of replies."""
    replies: list[Reply] = []
    ended = asyncio.Event()
    clock = asyncio.get_running_loop().time

    async def send() -> None:
        while not ended.is_set():
            sent_s = clock()
            (response,) = await front.get("steady", 1)
            replies.append(Reply(response.status_code, sent_s, clock()))

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(send())
        try:
            yield replies
        finally:
            ended.set()


async def until_more(replies: list[Reply], count: int) -> None:
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
        assert {reply.status for reply in replies} == {200, 429}
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


async def lose_network(replica: Container) -> None:
    """Takes a container out of its networks, as a lost host or cable does: its packets are dropped."""
    for network in (await inspect(replica))["NetworkSettings"]["Networks"]:
        await run("docker", "network", "disconnect", "--force", network, replica.id)


async def test_a_replica_that_vanishes_costs_at_most_the_calls_in_flight(front: Front) -> None:
    """One of three replicas is removed with its address; then one of the other two loses the network."""
    many = dict.fromkeys(("global_capacity", "user_capacity", "user_api_capacity"), MANY)
    await front.set_limits(**many, **NO_REFILL)
    removed, cut_off, _ = await front.replicas()
    clock = asyncio.get_running_loop().time
    faults_s = []
    try:
        async with traffic(front) as replies:
            for healthy, fault in (
                (REPLICAS - 1, partial(run, "docker", "rm", "--force", removed.id)),
                (REPLICAS - 2, partial(lose_network, cut_off)),
            ):
                await until_more(replies, 20)
                begun_s = clock()
                await fault()
                await front.until_healthy_hosts(healthy)
                faults_s.append((begun_s, clock()))
            await until_more(replies, 20)
        tokens, _ = await front.bucket("rate:user:steady:api:/api/*")
    finally:
        await run("docker", "rm", "--force", removed.id, cut_off.id)
        up = ("up", "--detach", "--no-recreate", "--no-deps", "--scale", f"ratelimitd={REPLICAS}")
        await front.project.compose(*up, "ratelimitd")
    failed = [reply for reply in replies if reply.status != 200]
    assert {reply.status for reply in failed} <= {503}
    during = [
        [reply for reply in failed if reply.answered_s >= begun_s and reply.sent_s <= ended_s]
        for begun_s, ended_s in faults_s
    ]
    assert sum(map(len, during)) == len(failed)
    # The calls in flight, and those that were sent before Envoy stopped calling the replica, one per caller.
    assert max(map(len, during)) <= 2 * CALLERS
    # A lost call may have taken its token, but no request takes two.
    assert len(replies) - len(failed) <= round(MANY - tokens) <= len(replies)
    await front.until_healthy_hosts(REPLICAS)
