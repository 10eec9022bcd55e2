"""A rolling restart of the replicas behind a real Envoy, under load."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimitd.process.child import child
from ratelimitd.process.loopback import free_port
from ratelimitd.resources import resource
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from tests.delaying_proxy import ONE_WAY_S, distant_url, port_of
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json, statuses
from tests.system.replicated_front import REPLICAS, Front, cluster_of_replicas, send_until

MANY = 1_000_000
CALLERS = 6
QUICK_S, LEAVE_S = 0.25, 1.0
"""The interval of Envoy's health checks, and the leave time of a replica. As in the shipped configuration,
the leave time is longer than the interval; the shipped interval is 1 s."""

SETTINGS = {
    # On a busy machine a decision may take longer than the default of 50 ms.
    "RATELIMITD_STORE_TIMEOUT_MS": "200",
    "RATELIMITD_LEAVE_S": str(LEAVE_S),
}


def quick(config: Any) -> None:
    """Shortens the interval of the health checks."""
    checks = cluster_of_replicas(config)["health_checks"]
    checks[0] |= {"interval": f"{QUICK_S}s", "no_traffic_interval": f"{QUICK_S}s"}


def test_the_leave_time_exceeds_what_the_shipped_envoy_takes_to_notice() -> None:
    cluster = cluster_of_replicas(yaml.safe_load(resource("envoy/envoy.yaml").read_text()))
    (check,) = cluster["health_checks"]
    assert check["interval"] == check["no_traffic_interval"] == "1s"
    assert cluster["common_lb_config"]["update_merge_window"] == "0s"
    assert load({}, {}).leave_s > 1


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
        front = Front(await distant_url(store, proxy), transport, tmp_path, SETTINGS)
        await store.flushall()
        await store.set(KEY, limits_json(**capacities))
        lives = {}
        for address in front.replicas:
            lives[address] = await stack.enter_async_context(AsyncExitStack())
            await lives[address].enter_async_context(front.replica(address))
        envoy = await stack.enter_async_context(front.envoy(quick))
        await envoy.until(partial(front.healthy, client, front.replicas))
        ended, replies = asyncio.Event(), list[httpx.Response]()
        url = f"http://{front.listener}/api/ready"
        callers = [asyncio.create_task(send_until(ended, client, url, replies)) for _ in range(CALLERS)]
        try:
            for address in front.replicas:
                await lives[address].aclose()
                others = [other for other in front.replicas if other != address]
                await eventually(partial(front.healthy, client, others), f"{address} has left")
                await lives[address].enter_async_context(front.replica(address))
                await eventually(partial(front.healthy, client, front.replicas), f"{address} is back")
        finally:
            ended.set()
        await asyncio.gather(*callers)
    assert statuses(replies) == {200: len(replies)}
    assert len(replies) > CALLERS * REPLICAS
