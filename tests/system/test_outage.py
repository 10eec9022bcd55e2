"""The store away, slow and back again, seen through a real Envoy: 503, never 429, and healing by itself."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from tests.eventually import eventually
from tests.example_limits import statuses
from tests.system.conftest import GRPCIO, client_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("outage")]

PATIENT = ("--store-timeout-ms", "100")
"""Twice the default, so that a busy machine is not taken for a slow store, and far below Envoy's 250 ms."""
UNAVAILABLE = '{"error":"rate limiter unavailable"}'


class RestartableStore:
    """A store of this module's own, always on one port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._life = AsyncExitStack()

    async def start(self) -> None:
        """An empty store."""
        await self._life.enter_async_context(embedded_store(self.port))

    async def stop(self) -> None:
        """Nobody listens any more."""
        await self._life.aclose()

    async def pid(self) -> int:
        """The store's own process number."""
        async with open_client(self.url) as client:
            info = await client.info("server")
        return int(info["process_id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own_store() -> AsyncIterator[RestartableStore]:
    """A store that the tests may stop."""
    store = RestartableStore()
    await store.start()
    yield store
    await store.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(own_store: RestartableStore) -> AsyncIterator[Stack]:
    """Two replicas on that store."""
    async with running_stack(own_store.url, replicas=2, flags=[*GRPCIO, *PATIENT]) as running:
        await until_normal(running)
        yield running


async def burst(stack: Stack, user: str) -> list[httpx.Response]:
    """Forty requests at once."""
    async with client_of(stack) as http:
        calls = [http.get("/api/ping", headers={"X-User-Id": user}) for _ in range(40)]
        return list(await asyncio.gather(*calls))


async def until_normal(stack: Stack) -> None:
    """Both replicas decide again, by themselves."""

    async def normal() -> bool:
        return 503 not in statuses(await burst(stack, "healed"))

    await eventually(normal, "no more 503")


async def test_a_stopped_store_is_503_and_a_new_one_is_used_at_once(
    own_store: RestartableStore, stack: Stack
) -> None:
    """Its scripts are gone with it, which nobody notices."""
    assert statuses(await burst(stack, "before")) == {200: 20, 429: 20}
    await own_store.stop()
    try:
        replies = await burst(stack, "during")
    finally:
        await own_store.start()
    assert statuses(replies) == {503: 40}
    assert {reply.text for reply in replies} == {UNAVAILABLE}
    assert {reply.headers["content-type"] for reply in replies} == {"application/json"}
    await until_normal(stack)
    assert statuses(await burst(stack, "after")) == {200: 20, 429: 20}


async def test_a_store_that_hangs_is_503_from_us_and_not_a_time_out_of_envoys(
    own_store: RestartableStore, stack: Stack
) -> None:
    """The body is ours, so the answer came within our own deadline, before Envoy's."""
    await burst(stack, "before-hang")
    pid = await own_store.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        replies = await burst(stack, "during-hang")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert statuses(replies) == {503: 40}
    assert {reply.text for reply in replies} == {UNAVAILABLE}
    await until_normal(stack)


@pytest.mark.parametrize(("setting", "status"), [("deny", 503), ("envoy", 503), ("allow", 200)])
async def test_a_store_that_never_came_is_answered_as_set(tmp_path: Path, setting: str, status: int) -> None:
    """The service starts all the same; Envoy's own configuration has failure_mode_allow false."""
    dead = f"unix://{tmp_path}/none.sock"
    async with running_stack(dead, replicas=1, flags=[*GRPCIO, "--on-store-error", setting]) as alone:
        replies = await burst(alone, "user1")
        assert statuses(replies) == {status: 40}
        if status == 503:
            assert {reply.text for reply in replies} == {UNAVAILABLE}
            details = "ext_authz_error" if setting == "envoy" else "ext_authz_denied"

            async def logged() -> bool:
                return details in (alone.logs / "envoy.log").read_text()

            await eventually(logged, f"{details} in the access log")
