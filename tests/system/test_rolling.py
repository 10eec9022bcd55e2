"""Replicas are replaced one after the other, under load through a real Envoy, and no request is lost."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import pytest

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.parts import envoy_command
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.client import open_client
from tests.limits import KEY, limits_json, statuses
from tests.waiting import eventually

MANY = 1_000_000
REPLICAS = 3
CALLERS = 6


class Front:
    """An Envoy before replicas that can be replaced."""

    def __init__(self, store_url: str, transport: str, folder: Path) -> None:
        self.listener, self.admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
        self.replicas = [TcpAddress(LOOPBACK, free_port()) for _ in range(REPLICAS)]
        self._folder = folder
        self._env = os.environ | {
            "RATELIMITD_REDIS_URL": store_url,
            "RATELIMITD_TRANSPORT": transport,
            # What is tested is a restart; with everything on a few busy cores 50 ms would be tested too.
            "RATELIMITD_STORE_TIMEOUT_MS": "200",
        }

    @asynccontextmanager
    async def replica(self, address: TcpAddress) -> AsyncIterator[Child]:
        """A process at this address, until the end of the block."""
        command = [sys.executable, "-m", "ratelimitd", "serve", "--listen", str(address)]
        log = self._folder / f"replica-{address.port}.log"
        async with child(f"ratelimitd {address}", command, log, self._env) as process:
            yield process

    @asynccontextmanager
    async def envoy(self) -> AsyncIterator[Child]:
        """An Envoy, until the end of the block. Its backend is its own admin interface."""
        config = self._folder / "envoy.yaml"
        clusters = {"ratelimitd": self.replicas, "backend": [self.admin]}
        config.write_text(envoy_config(listener=self.listener, admin=self.admin, clusters=clusters))
        log = self._folder / "envoy.log"
        async with child("envoy", envoy_command(config), log, os.environ) as process:
            yield process

    async def healthy(self, client: httpx.AsyncClient, wanted: Sequence[TcpAddress]) -> bool:
        """Whether Envoy finds exactly these replicas healthy."""
        with suppress(httpx.TransportError):
            text = (await client.get(f"http://{self.admin}/clusters")).text
            flags = dict(
                line.split("::health_flags::") for line in text.splitlines() if "health_flags" in line
            )
            return {at for at in self.replicas if flags.get(f"ratelimitd::{at}") == "healthy"} == set(wanted)
        return False


async def ask_until(ended: asyncio.Event, client: httpx.AsyncClient, url: str) -> list[httpx.Response]:
    """One caller's answers, one request after the other."""
    replies = []
    while not ended.is_set():
        replies.append(await client.get(url, headers={"X-User-Id": "user1"}))
    return replies


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_rolling_restart_loses_no_request(store_url: str, tmp_path: Path, transport: str) -> None:
    """Each of three replicas is stopped by SIGTERM and started again, and every answer is the backend's."""
    front = Front(store_url, transport, tmp_path)
    capacities = {f"{tier}_capacity": MANY for tier in ("global", "user", "user_api")}
    async with (
        open_client(store_url) as store,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        AsyncExitStack() as stack,
    ):
        await store.flushall()
        await store.set(KEY, limits_json(**capacities))
        lives = {}
        for address in front.replicas:
            lives[address] = await stack.enter_async_context(AsyncExitStack())
            await lives[address].enter_async_context(front.replica(address))
        envoy = await stack.enter_async_context(front.envoy())
        await envoy.until(partial(front.healthy, client, front.replicas))
        ended = asyncio.Event()
        url = f"http://{front.listener}/api/ready"
        callers = [asyncio.create_task(ask_until(ended, client, url)) for _ in range(CALLERS)]
        try:
            for address in front.replicas:
                await lives[address].aclose()
                others = [other for other in front.replicas if other != address]
                await eventually(partial(front.healthy, client, others), f"{address} has left")
                await lives[address].enter_async_context(front.replica(address))
                await eventually(partial(front.healthy, client, front.replicas), f"{address} is back")
        finally:
            ended.set()
        replies = [reply for caller in callers for reply in await caller]
    assert statuses(replies) == {200: len(replies)}
    assert len(replies) > CALLERS * REPLICAS
