"""A rolling restart of the replicas behind a real Envoy, under load."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.parts import envoy_command
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.resources import resource
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from tests.delaying_proxy import ONE_WAY_S, distant_url, port_of
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json, statuses

MANY = 1_000_000
REPLICAS = 3
CALLERS = 6
PAUSE_S = 0.005
"""The pause between two requests of a caller, which leaves the cores to the service."""
QUICK_S, LEAVE_S = 0.25, 1.0
"""The interval of Envoy's health checks, which is also the window in which it merges host updates, and the
leave time of a replica. As in the shipped configuration, the leave time is longer than interval and window
together; the shipped values are 1 s each."""


def cluster_of_replicas(config: Any) -> dict[str, Any]:
    """Returns the cluster of the replicas in an Envoy configuration."""
    (cluster,) = [one for one in config["static_resources"]["clusters"] if one["name"] == "ratelimitd"]
    found: dict[str, Any] = cluster
    return found


class Front:
    """An Envoy in front of replicas that can be replaced."""

    def __init__(self, store_url: str, transport: str, folder: Path) -> None:
        self.listener, self.admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
        self.replicas = [TcpAddress(LOOPBACK, free_port()) for _ in range(REPLICAS)]
        self._folder = folder
        self._env = os.environ | {
            "RATELIMITD_REDIS_URL": store_url,
            "RATELIMITD_TRANSPORT": transport,
            # On a busy machine a decision may take longer than the default of 50 ms.
            "RATELIMITD_STORE_TIMEOUT_MS": "200",
            "RATELIMITD_LEAVE_S": str(LEAVE_S),
        }

    @asynccontextmanager
    async def replica(self, address: TcpAddress) -> AsyncIterator[Child]:
        """Runs a replica at this address."""
        command = [sys.executable, "-m", "ratelimitd", "serve", "--listen", str(address)]
        log = self._folder / f"replica-{address.port}.log"
        async with child(f"ratelimitd {address}", command, log, self._env) as process:
            yield process

    @asynccontextmanager
    async def envoy(self) -> AsyncIterator[Child]:
        """Runs an Envoy whose backend is its own admin interface."""
        path = self._folder / "envoy.yaml"
        clusters = {"ratelimitd": self.replicas, "backend": [self.admin]}
        config = yaml.safe_load(envoy_config(listener=self.listener, admin=self.admin, clusters=clusters))
        cluster = cluster_of_replicas(config)
        cluster["health_checks"][0] |= {"interval": f"{QUICK_S}s", "no_traffic_interval": f"{QUICK_S}s"}
        cluster["common_lb_config"]["update_merge_window"] = f"{QUICK_S}s"
        path.write_text(yaml.safe_dump(config))
        log = self._folder / "envoy.log"
        async with child("envoy", envoy_command(path), log, os.environ) as process:
            yield process

    async def healthy(self, client: httpx.AsyncClient, wanted: Sequence[TcpAddress]) -> bool:
        """Returns whether Envoy considers exactly these replicas healthy."""
        with suppress(httpx.TransportError):
            text = (await client.get(f"http://{self.admin}/clusters")).text
            flags = dict(
                line.split("::health_flags::") for line in text.splitlines() if "health_flags" in line
            )
            return {at for at in self.replicas if flags.get(f"ratelimitd::{at}") == "healthy"} == set(wanted)
        return False


async def send_until(ended: asyncio.Event, client: httpx.AsyncClient, url: str) -> list[httpx.Response]:
    """Sends one request after the other until `ended` is set, and returns the responses."""
    replies = []
    while not ended.is_set():
        replies.append(await client.get(url, headers={"X-User-Id": "user1"}))
        await asyncio.sleep(PAUSE_S)
    return replies


def test_the_leave_time_exceeds_what_the_shipped_envoy_takes_to_notice() -> None:
    cluster = cluster_of_replicas(yaml.safe_load(resource("envoy/envoy.yaml").read_text()))
    (check,) = cluster["health_checks"]
    assert check["interval"] == check["no_traffic_interval"] == "1s"
    assert "update_merge_window" not in cluster["common_lb_config"]  # Envoy's default is 1 s
    assert load({}, {}).leave_s > 1 + 1


@asynccontextmanager
async def distant_proxy(target: int, folder: Path) -> AsyncIterator[int]:
    """Runs a delaying proxy of this port in a process of its own, and yields its port."""
    port = free_port()
    command = [sys.executable, "-m", "tests.delaying_proxy", str(port), str(target), str(ONE_WAY_S)]
    async with child("proxy", command, folder / "proxy.log", os.environ):
        yield port


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_rolling_restart_loses_no_request(store_url: str, tmp_path: Path, transport: str) -> None:
    """Each of three replicas stops after a SIGTERM and starts again. The store is 20 ms away."""
    capacities = {f"{tier}_capacity": MANY for tier in ("global", "user", "user_api")}
    async with (
        open_client(store_url) as store,
        distant_proxy(port_of(store_url), tmp_path) as proxy,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        AsyncExitStack() as stack,
    ):
        front = Front(await distant_url(store, proxy), transport, tmp_path)
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
        callers = [asyncio.create_task(send_until(ended, client, url)) for _ in range(CALLERS)]
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
