"""Responses of a real Envoy while the store is stopped or hangs, and after it is back."""

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
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses
from tests.system.conftest import GRPCIO, client_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("outage")]

PATIENT = ("--store-timeout-ms", "100")
"""Twice the default, because a busy machine is slow, and far below Envoy's timeout of 250 ms."""
LIMITS = limits_json(global_capacity=1_000_000, user_capacity=20, user_api_capacity=20, **NO_REFILL)
"""No token refills during a burst, however long it takes. Replicas keep the policy of an emptied store."""
UNAVAILABLE = '{"error":"rate limiter unavailable"}'


class RestartableStore:
    """A store of this module, which always listens on the same port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._life = AsyncExitStack()

    async def start(self) -> None:
        """Starts an empty store."""
        await self._life.enter_async_context(embedded_store(self.port))

    async def stop(self) -> None:
        """Stops the store."""
        await self._life.aclose()

    async def pid(self) -> int:
        """Returns the process number of the store."""
        async with open_client(self.url) as client:
            info = await client.info("server")
        return int(info["process_id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own_store() -> AsyncIterator[RestartableStore]:
    """Runs a store that the tests may stop."""
    store = RestartableStore()
    await store.start()
    yield store
    await store.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(own_store: RestartableStore) -> AsyncIterator[Stack]:
    """Runs two replicas on that store."""
    async with open_client(own_store.url) as client:
        await client.set(KEY, LIMITS)
    async with running_stack(own_store.url, replicas=2, flags=[*GRPCIO, *PATIENT]) as running:
        await until_normal(running)
        yield running


async def burst(stack: Stack, user: str) -> list[httpx.Response]:
    """Sends 40 requests at once and returns the responses."""
    async with client_of(stack) as http:
        calls = [http.get("/api/ping", headers={"X-User-Id": user}) for _ in range(40)]
        return list(await asyncio.gather(*calls))


async def until_normal(stack: Stack) -> None:
    """Waits until the replicas decide again."""

    async def normal() -> bool:
        return 503 not in statuses(await burst(stack, "healed"))

    await eventually(normal, "no more 503")


async def test_a_stopped_store_is_503_and_a_new_one_is_used_at_once(
    own_store: RestartableStore, stack: Stack
) -> None:
    """The new store does not have the Lua scripts yet."""
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


async def test_a_store_that_hangs_is_503_from_ratelimitd_not_from_envoy(
    own_store: RestartableStore, stack: Stack
) -> None:
    """The body comes from ratelimitd, so it responded before Envoy's timeout."""
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
async def test_without_a_store_from_the_start_on_store_error_applies(
    tmp_path: Path, setting: str, status: int
) -> None:
    """The service starts without a store. In Envoy's configuration failure_mode_allow is false."""
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
