"""Real replicas that decide from memory while their store hangs or is gone, and by the store afterwards."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.system.one_replica import WAYS, OneReplica, one_replica

CAPACITY = 10
LIMITS = limits_json(
    **NO_REFILL, global_capacity=1_000_000, user_capacity=CAPACITY, user_api_capacity=CAPACITY
)
ENV = {"RATELIMITD_ON_STORE_ERROR": "local"}
DECISIONS = "ratelimitd_decisions_total"


async def until_decided_by_the_store(replica: OneReplica) -> None:
    """Waits until the store decides a request."""

    async def by_the_store() -> bool:
        before = await replica.metric(DECISIONS, outcome="allowed", source="store")
        await replica.status_of(f"probe{before}")
        return await replica.metric(DECISIONS, outcome="allowed", source="store") > before

    await eventually(by_the_store, "a decision by the store")


async def test_three_replicas_share_the_limits_while_the_store_hangs(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(embedded_store())
        store = await stack.enter_async_context(open_client(url))
        await store.set(KEY, LIMITS)
        pid = int((await store.info("server"))["process_id"])
        replicas = []
        for way in WAYS:
            folder = tmp_path / way
            folder.mkdir()
            replicas.append(await stack.enter_async_context(one_replica(way, url, folder, ENV)))
        for replica in replicas:
            await until_decided_by_the_store(replica)
            await until_it_has_counted(replica, len(WAYS))
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        await asyncio.gather(*(replica.until_away() for replica in replicas))
        counts: Counter[int] = sum(
            await asyncio.gather(*(replica.statuses("alice", 8) for replica in replicas)), Counter()
        )
        assert counts == {200: 3 * 4, 429: 3 * 4}  # a third of 10 tokens, rounded up
        assert counts[200] <= CAPACITY + len(WAYS) - 1
        os.kill(pid, signal.SIGCONT)
        for replica in replicas:
            await until_decided_by_the_store(replica)
        assert await replicas[0].statuses("alice", CAPACITY + 2) == {200: CAPACITY, 429: 2}


async def until_it_has_counted(replica: OneReplica, live: int) -> None:
    """Waits until the replica has counted this many live replicas."""

    async def counted() -> bool:
        return await replica.metric("ratelimitd_live_replicas") == live

    await eventually(counted, f"{live} live replicas")


async def test_a_replica_decides_from_memory_while_the_store_is_gone(tmp_path: Path) -> None:
    """The new store is empty, and the replica keeps its policy."""
    port = free_port()
    async with AsyncExitStack() as stack:
        life = await stack.enter_async_context(AsyncExitStack())
        url = await life.enter_async_context(embedded_store(port))
        async with open_client(url) as store:
            await store.set(KEY, LIMITS)
        replica = await stack.enter_async_context(one_replica("grpcio", url, tmp_path, ENV))
        await until_decided_by_the_store(replica)
        await until_it_has_counted(replica, 1)
        await life.aclose()
        assert await replica.statuses("alice", 15) == {200: CAPACITY, 429: 5}
        await stack.enter_async_context(embedded_store(port))
        await until_decided_by_the_store(replica)
        assert await replica.statuses("alice", 15) == {200: CAPACITY, 429: 5}
        degraded = await replica.metric(DECISIONS, source="degraded")
        assert degraded >= 15
