"""A real Envoy in front of replicas that a test stops, starts, freezes or kills, and callers of it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.parts import envoy_command
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port

REPLICAS = 3
PAUSE_S = 0.005
"""The pause between two requests of a caller, which leaves the cores to the service."""


def cluster_of_replicas(config: Any) -> dict[str, Any]:
    """Returns the cluster of the replicas in an Envoy configuration."""
    (cluster,) = [one for one in config["static_resources"]["clusters"] if one["name"] == "ratelimitd"]
    found: dict[str, Any] = cluster
    return found


class Front:
    """An Envoy in front of replicas that can be replaced.

    Args:
        store_url: the store of the replicas.
        transport: the transport of the replicas.
        folder: the folder of the logs.
        settings: environment variables of the replicas.
    """

    def __init__(self, store_url: str, transport: str, folder: Path, settings: Mapping[str, str]) -> None:
        self.listener, self.admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
        self.replicas = [TcpAddress(LOOPBACK, free_port()) for _ in range(REPLICAS)]
        self._folder = folder
        self._env = os.environ | {
            "RATELIMITD_REDIS_URL": store_url,
            "RATELIMITD_TRANSPORT": transport,
            **settings,
        }

    @asynccontextmanager
    async def replica(self, address: TcpAddress) -> AsyncIterator[Child]:
        """Runs a replica at this address."""
        command = [sys.executable, "-m", "ratelimitd", "serve", "--listen", str(address)]
        log = self._folder / f"replica-{address.port}.log"
        async with child(f"ratelimitd {address}", command, log, self._env) as process:
            yield process

    @asynccontextmanager
    async def envoy(self, change: Callable[[Any], object]) -> AsyncIterator[Child]:
        """Runs an Envoy with a change of the shipped configuration. The backend is its admin interface."""
        path = self._folder / "envoy.yaml"
        clusters = {"ratelimitd": self.replicas, "backend": [self.admin]}
        config = yaml.safe_load(envoy_config(listener=self.listener, admin=self.admin, clusters=clusters))
        change(config)
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


async def send_until(
    ended: asyncio.Event, client: httpx.AsyncClient, url: str, replies: list[httpx.Response]
) -> None:
    """Sends one request after the other until `ended` is set, and adds the responses to `replies`."""
    while not ended.is_set():
        replies.append(await client.get(url, headers={"X-User-Id": "user1"}))
        await asyncio.sleep(PAUSE_S)
