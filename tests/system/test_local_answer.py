"""Real replicas that decide from memory while their store hangs or is gone, and by the store afterwards."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.system.one_replica import WAYS, OneReplica, one_replica

CAPACITY = 10
SHARE = 4
"""A third of the capacity, rounded up."""

LIMITS = limits_json(
    **NO_REFILL, global_capacity=1_000_000, user_capacity=CAPACITY, user_api_capacity=CAPACITY
)
DECISIONS = "ratelimitd_decisions_total"
ERRORS = "ratelimitd_store_errors_total"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Site:
    """A replica in each of the ways to run the service, and their store."""

    port: int
    life: AsyncExitStack
    replicas: list[OneReplica]

    async def start_store(self) -> str:
        """Starts the store, which is empty then, and returns its URL."""
        return await self.life.enter_async_context(embedded_store(self.port))

    async def until_decided_by_the_store(self) -> None:
        """Waits until the store decides the requests of every replica, and each has counted all of them."""
        for replica in self.replicas:
            await until_decided_by_the_store(replica)
            await until_it_has_counted(replica, len(WAYS))

    async def statuses(self, user: str, times: int) -> Counter[int]:
        """Sends requests of a user to every replica, and counts the statuses."""
        return sum(
            await asyncio.gather(*(replica.statuses(user, times) for replica in self.replicas)), Counter()
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Runs a store with a policy, and the replicas. Each test leaves the store running."""
    async with AsyncExitStack() as stack:
        running = Site(free_port(), await stack.enter_async_context(AsyncExitStack()), [])
        url = await running.start_store()
        async with open_client(url) as store:
            await store.set(KEY, LIMITS)

        async def start(way: str) -> OneReplica:
            folder = tmp_path_factory.mktemp(way)
            opening = one_replica(way, url, folder, {"RATELIMITD_ON_STORE_ERROR": "local"})
            return await stack.enter_async_context(opening)

        running.replicas = [await start(way) for way in WAYS]
        yield running


async def until_decided_by_the_store(replica: OneReplica) -> None:
    """Waits until the store decides a request."""

    async def by_the_store() -> bool:
        before = await replica.metric(DECISIONS, outcome="allowed", source="store")
        await replica.status_of(f"probe{before}")
        return await replica.metric(DECISIONS, outcome="allowed", source="store") > before

    await eventually(by_the_store, "a decision by the store")


async def until_it_has_counted(replica: OneReplica, live: int) -> None:
    """Waits until the replica has counted this many live replicas."""

    async def counted() -> bool:
        return await replica.metric("ratelimitd_live_replicas") == live

    await eventually(counted, f"{live} live replicas")


async def test_while_the_store_hangs_replicas_share_the_limits_and_no_request_waits(site: Site) -> None:
    await site.until_decided_by_the_store()
    async with open_client(f"redis://127.0.0.1:{site.port}") as store:
        pid = int((await store.info("server"))["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.gather(*(replica.until_away() for replica in site.replicas))
        away = [await replica.metric(ERRORS, reason="away") for replica in site.replicas]
        counts = await site.statuses("alice", 8)
        assert counts == {200: 3 * SHARE, 429: 3 * (8 - SHARE)}
        assert counts[200] <= CAPACITY + len(WAYS) - 1
        for replica, before in zip(site.replicas, away, strict=True):
            assert await replica.metric(ERRORS, reason="away") == before + 8
    finally:
        os.kill(pid, signal.SIGCONT)
    await site.until_decided_by_the_store()
    assert await site.replicas[0].statuses("alice", CAPACITY + 2) == {200: CAPACITY, 429: 2}


async def test_replicas_decide_from_memory_while_the_store_is_gone(site: Site) -> None:
    """The new store is empty, and the replicas keep their policy."""
    await site.until_decided_by_the_store()
    await site.life.aclose()
    try:
        assert await site.statuses("bob", 15) == {200: 3 * SHARE, 429: 3 * (15 - SHARE)}
    finally:
        await site.start_store()
    await site.until_decided_by_the_store()
    assert await site.replicas[0].statuses("bob", 15) == {200: CAPACITY, 429: 5}
