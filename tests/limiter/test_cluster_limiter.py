"""Tests of taking tokens in a Redis Cluster while it changes, on real nodes."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import NamedTuple
from unittest.mock import Mock

import pytest
import pytest_asyncio
from redis.exceptions import RedisError

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import BatchCallback, BatchLimiter
from ratelimitd.errors import (
    StoreAwayError,
    StoreConnectionError,
    StoreError,
    StoreRefusedError,
    StoreTimeoutError,
)
from ratelimitd.limiter import cluster_lanes
from ratelimitd.limiter.cluster_limiter import ClusterLimiter
from ratelimitd.limiter.opening import Parts, open_store_limiter
from ratelimitd.settings import load
from ratelimitd.settings_table import CONFIG_KEY
from ratelimitd.store.access import access_to
from ratelimitd.store.client import open_client
from ratelimitd.store.cluster_slots import slot_of
from ratelimitd.store_url import Node, StoreUrl
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.telemetry.traces.attributes import peer_attributes, store_attributes
from ratelimitd.telemetry.traces.opening import NO_TRACES, Traces
from tests.core.take_requests import take_request
from tests.eventually import eventually
from tests.redis_cluster import Member, RedisCluster, redis_cluster

CAPACITY = 5

_numbers = count()


pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cluster")]

NO_MIGRATION = ("--cluster-allow-replica-migration", "no")

FAILOVER = (
    *("--cluster-node-timeout", "1000"),
    *("--cluster-require-full-coverage", "no"),
    *("--repl-diskless-sync-delay", "0"),
)


class Clusters(NamedTuple):
    """A cluster that the tests share, and two that one test each changes for good."""

    shared: RedisCluster
    growing: RedisCluster
    failing: RedisCluster


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clusters() -> AsyncIterator[Clusters]:
    """Runs the clusters. They start together, because masters wait two seconds before they serve."""
    async with AsyncExitStack() as stack:
        starting = (
            redis_cluster(3),
            redis_cluster(2, *NO_MIGRATION, with_spare=True),
            redis_cluster(3, *FAILOVER, with_spare=True),
        )
        yield Clusters(*await asyncio.gather(*map(stack.enter_async_context, starting)))


@pytest_asyncio.fixture(loop_scope="module")
async def cluster(clusters: Clusters) -> RedisCluster:
    """Returns the cluster that tests share, without keys."""
    for member in clusters.shared.members:
        await member.client.flushall()
    return clusters.shared


@asynccontextmanager
async def limiter_over(
    url: str, timeout_ms: int = 10_000, traces: Traces = NO_TRACES
) -> AsyncIterator[ClusterLimiter]:
    """Yields a limiter that knows the cluster at `url`. Its decisions wait long, for slow machines."""
    settings, access = load({}, {"redis_url": url, "store_timeout_ms": str(timeout_ms)}), access_to(url)
    parts = Parts(settings, access, traces, StoreCalls())
    async with open_client(access) as client, open_store_limiter(parts, client) as store:
        await store.settled()
        assert isinstance(store.limiter, ClusterLimiter)
        yield store.limiter


def keys_of(user: str) -> tuple[str, str]:
    return f"rate:user:{{{user}}}", f"rate:user:{{{user}}}:api:*"


def request(user: str) -> TakeRequest:
    """Returns a request for a token of both buckets of a user, which hardly refill."""
    user_key, api_key = keys_of(user)
    return take_request({user_key: Limit(2 * CAPACITY, 0.001), api_key: Limit(CAPACITY, 0.001)})


def left(outcome: Outcome) -> int | None:
    """Returns the whole tokens that the user has left for the API."""
    tokens = outcome.tokens[1]
    return None if tokens is None else tokens // MICRO


async def user_on(cluster: RedisCluster, member: Member) -> str:
    """Returns a user that no other call returned, whose buckets are on this node."""
    while True:
        user = f"u{next(_numbers)}"
        if await cluster.owner(keys_of(user)[0]) is member:
            return user


async def errors_of(member: Member, code: str) -> int:
    """Returns how many replies of a node began with this code."""
    stats = await member.client.info("errorstats")
    return int(stats.get(f"errorstat_{code}", {}).get("count", 0))


async def test_replicas_admit_exactly_the_tokens_of_every_user(cluster: RedisCluster) -> None:
    users = [f"user{number}" for number in range(40)]
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(limiter_over(cluster.url)) for _ in range(3)]
        outcomes = await asyncio.gather(
            *(one.take(request(user)) for _ in range(CAPACITY) for one in replicas for user in users)
        )
        assert sum(outcome.allowed for outcome in outcomes) == CAPACITY * len(users)
        assert {lane.node.port for lane in replicas[0].lanes.lanes} == {one.port for one in cluster.members}
    sizes = [await member.client.dbsize() for member in cluster.members]
    assert min(sizes) > 0
    assert sum(sizes) == 2 * len(users)


async def test_a_moved_slot_is_followed_and_known_from_then_on(cluster: RedisCluster) -> None:
    source, target, _ = cluster.members
    user = await user_on(cluster, source)
    slot = slot_of(keys_of(user)[0])
    async with limiter_over(cluster.url) as limiter:
        assert left(await limiter.take(request(user))) == CAPACITY - 1
        await cluster.begin_move(slot, source, target)
        await cluster.end_move(slot, source, target)
        assert left(await limiter.take(request(user))) == CAPACITY - 2
        redirected = await errors_of(source, "MOVED")
        assert redirected > 0
        assert left(await limiter.take(request(user))) == CAPACITY - 3
        assert await errors_of(source, "MOVED") == redirected


async def test_keys_that_moved_before_their_slot_are_asked_for_at_the_target(cluster: RedisCluster) -> None:
    source, target, _ = cluster.members
    user = await user_on(cluster, source)
    slot = slot_of(keys_of(user)[0])
    async with limiter_over(cluster.url) as limiter:
        await limiter.take(request(user))
        await target.client.script_flush()
        await cluster.begin_move(slot, source, target)
        await cluster.move_keys(source, target, *keys_of(user))
        outcomes = await asyncio.gather(*(limiter.take(request(user)) for _ in range(2 * CAPACITY)))
        assert sum(outcome.allowed for outcome in outcomes) == CAPACITY - 1
        assert await errors_of(source, "ASK") > 0
        await cluster.end_move(slot, source, target)
        assert not (await limiter.take(request(user))).allowed


async def test_a_user_whose_keys_are_on_two_nodes_waits_and_delays_nobody(cluster: RedisCluster) -> None:
    source, target, _ = cluster.members
    user = await user_on(cluster, source)
    slot = slot_of(keys_of(user)[0])
    async with limiter_over(cluster.url) as limiter:
        await limiter.take(request(user))
        await cluster.begin_move(slot, source, target)
        await cluster.move_keys(source, target, keys_of(user)[0])
        before = await errors_of(source, "TRYAGAIN") + await errors_of(target, "TRYAGAIN")
        waiting = asyncio.create_task(limiter.take(request(user)))

        async def repeated() -> bool:
            now = await errors_of(source, "TRYAGAIN") + await errors_of(target, "TRYAGAIN")
            return now > before + 1

        await eventually(repeated, "the call is made again")
        others = await asyncio.gather(*(limiter.take(request(f"other{number}")) for number in range(50)))
        assert all(outcome.allowed for outcome in others)
        assert not waiting.done()
        await cluster.end_move(slot, source, target)
        assert left(await waiting) == CAPACITY - 2


async def test_a_call_that_no_node_executes_in_time_is_undecided(cluster: RedisCluster) -> None:
    source, target, _ = cluster.members
    user = await user_on(cluster, source)
    slot = slot_of(keys_of(user)[0])
    async with limiter_over(cluster.url) as limiter:
        await limiter.take(request(user))
    await cluster.begin_move(slot, source, target)
    await cluster.move_keys(source, target, keys_of(user)[0])
    async with limiter_over(cluster.url, timeout_ms=100) as limiter:
        with pytest.raises(
            StoreTimeoutError, match=r"^no answer within 100 ms after: the node [\d.:]+ failed: [^()]*$"
        ):
            await limiter.take(request(user))
    await cluster.end_move(slot, source, target)


async def test_a_call_in_flight_on_a_lost_connection_is_not_made_again(cluster: RedisCluster) -> None:
    member = cluster.members[1]
    user = await user_on(cluster, member)
    async with limiter_over(cluster.url) as limiter:
        await member.run("CLIENT", "PAUSE", 60_000, "WRITE")
        waiting = asyncio.create_task(limiter.take(request(user)))

        async def blocked() -> bool:
            clients = str(await member.run("CLIENT", "LIST"))
            return any("name=ratelimitd" in one and "cmd=evalsha" in one for one in clients.splitlines())

        await eventually(blocked, "the call has arrived")
        await member.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises(StoreConnectionError, match=f"^the node {member.address} failed: "):
            await waiting
        await member.run("CLIENT", "UNPAUSE")
        assert left(await limiter.take(request(user))) == CAPACITY - 1


async def test_a_node_that_hangs_affects_only_its_users_and_they_do_not_wait(cluster: RedisCluster) -> None:
    hung, other = cluster.members[1:]
    first, away = [await user_on(cluster, hung) for _ in range(2)]
    decided = [await user_on(cluster, other) for _ in range(50)]
    pid = int((await hung.client.info("server"))["process_id"])
    async with limiter_over(cluster.url, timeout_ms=1000) as limiter:
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreTimeoutError):
                await limiter.take(request(first))
            for _ in range(100):
                with pytest.raises(StoreAwayError):
                    await limiter.take(request(away))
            outcomes = await asyncio.gather(*(limiter.take(request(user)) for user in decided))
            assert all(outcome.allowed for outcome in outcomes)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert not await hung.client.exists(*keys_of(away))

        async def decides() -> bool:
            with suppress(StoreError):
                return (await limiter.take(request(away))).allowed
            return False

        await eventually(decides, "the node decides")


async def test_keys_of_several_slots_are_refused_with_the_reason(cluster: RedisCluster) -> None:
    keys = {"rate:user:{a}": Limit(1, 1), "rate:user:{b}": Limit(1, 1)}
    async with limiter_over(cluster.url) as limiter:
        with pytest.raises(StoreRefusedError, match="CROSSSLOT"):
            await limiter.take(take_request(keys))


@asynccontextmanager
async def hung(member: Member) -> AsyncIterator[None]:
    """Stops the process of a node until the end of the block."""
    pid = int((await member.client.info("server"))["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_a_node_that_hangs_delays_only_its_own_decisions(cluster: RedisCluster) -> None:
    member, *_ = cluster.members
    user, others = (
        await user_on(cluster, member),
        [await user_on(cluster, one) for one in cluster.members[1:]],
    )
    async with limiter_over(cluster.url) as limiter, AsyncExitStack() as stack:
        await stack.enter_async_context(hung(member))
        waiting = asyncio.create_task(limiter.take(request(user)))
        outcomes = await asyncio.gather(*(limiter.take(request(other)) for other in others))
        assert [left(outcome) for outcome in outcomes] == [CAPACITY - 1] * len(others)
        assert not waiting.done()
        await stack.aclose()
        assert left(await waiting) == CAPACITY - 1


async def test_a_decision_without_an_answer_names_its_node(cluster: RedisCluster) -> None:
    member = cluster.members[0]
    user = await user_on(cluster, member)
    async with limiter_over(cluster.url, timeout_ms=100) as limiter, hung(member):
        with pytest.raises(
            StoreTimeoutError, match=f"^no answer within 100 ms from the node {member.address}$"
        ):
            await limiter.take(request(user))


async def test_traces_name_the_node_of_each_call(cluster: RedisCluster) -> None:
    calls: list[tuple[object, object]] = []

    def of_calls(limiter: BatchLimiter, url: StoreUrl, peer: Callable[[], object]) -> BatchLimiter:
        def submit(requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
            calls.append((store_attributes(url)["server.port"], peer_attributes(peer())["network.peer.port"]))
            limiter.submit(requests, callback)

        return Mock(submit=submit)

    async with limiter_over(cluster.url, traces=NO_TRACES._replace(of_calls=of_calls)) as limiter:
        for member in cluster.members:
            await limiter.take(request(await user_on(cluster, member)))
    assert calls == [(member.port, member.port) for member in cluster.members]


async def test_nodes_that_join_are_used_and_nodes_that_leave_are_left(
    monkeypatch: pytest.MonkeyPatch, clusters: Clusters
) -> None:
    monkeypatch.setattr(cluster_lanes, "LINGER_S", 0)
    cluster = clusters.growing
    async with limiter_over(cluster.url) as limiter:
        user = await user_on(cluster, cluster.members[0])
        slot, first = slot_of(keys_of(user)[0]), cluster.members[0]
        await limiter.take(request(user))
        new = await cluster.join()
        await cluster.begin_move(slot, first, new)
        await cluster.move_keys(first, new, *keys_of(user))
        assert left(await limiter.take(request(user))) == CAPACITY - 2
        await cluster.end_move(slot, first, new)
        await cluster.agreed(new, slot)
        assert left(await limiter.take(request(user))) == CAPACITY - 3
        assert Node("127.0.0.1", new.port) in {lane.node for lane in limiter.lanes.lanes}
        opened = limiter.lanes.opened
        await cluster.move(slot, new, first)

        async def closed() -> bool:
            limiter.lanes.suspect()
            return len(limiter.lanes.lanes) == len(cluster.members) - 1

        await eventually(closed, "the link to a node without slots is closed")
        assert limiter.lanes.opened > opened  # clients compare it to find out that something has changed
        assert left(await limiter.take(request(user))) == CAPACITY - 4


async def test_a_replica_that_takes_over_is_found(clusters: Clusters) -> None:
    """Decisions of the lost master are undecided until then, and those of others are made."""
    own = clusters.failing
    async with limiter_over(own.url, timeout_ms=500) as limiter, open_client(own.url) as client:
        lost = await own.owner(CONFIG_KEY)
        remaining = next(member for member in own.members if member is not lost)
        user, other = await user_on(own, lost), await user_on(own, remaining)
        replica = await own.join()
        await replica.run("CLUSTER", "REPLICATE", lost.id)

        async def replicates() -> bool:
            return bool((await replica.client.info("replication"))["master_link_status"] == "up")

        await eventually(replicates, "the replica follows its master")
        await limiter.take(request(user))
        await client.set(CONFIG_KEY, "the policy")
        await lost.run("WAIT", 1, 10_000)
        await lost.stop()
        outcomes = []

        async def decided() -> bool:
            await limiter.take(request(other))
            try:
                outcomes.append(await limiter.take(request(user)))
            except StoreError:
                return False
            return True

        await eventually(decided, "the replica decides")
        assert left(outcomes[0]) == CAPACITY - 2

        async def policy_is_read() -> bool:
            try:
                return bool(await client.get(CONFIG_KEY) == b"the policy")
            except RedisError:  # the node that was asked may still name the lost master
                return False

        await eventually(policy_is_read, "the policy is read from the new master")
