"""Three replicas behind an Envoy with the shipped configuration, on a store of the drill."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from bench.launch import backend
from drills.policy import policy_text
from drills.replica import Replica
from ratelimitd.address import TcpAddress
from ratelimitd.demo import parts
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import CONFIG_KEY, PREFIX, env_name
from ratelimitd.store.client import open_client

REPLICAS = 3


@dataclass(frozen=True)
class System:
    """A running system.

    Args:
        front: where Envoy listens for requests.
        admin: where Envoy's admin interface listens.
        replicas: the services behind it.
        environ: the environment of the replicas, also for other commands on the same store.
        folder: the folder of all logs.
    """

    front: TcpAddress
    admin: TcpAddress
    replicas: Sequence[Replica]
    environ: Mapping[str, str]
    folder: Path

    async def healthy(self, number: int) -> bool:
        """Returns whether Envoy considers exactly this number of replicas healthy."""
        with suppress(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False) as client:
                text = (await client.get(f"http://{self.admin}/clusters")).text
            lines = [line for line in text.splitlines() if line.startswith("ratelimitd::")]
            return number == sum(line.endswith("::health_flags::healthy") for line in lines)
        return False

    async def connections(self) -> int:
        """Returns the number of connections that clients have to Envoy."""
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{self.admin}/stats?filter=^http.front.downstream_cx_active$"
            text = (await client.get(url)).text
        return int(text.rpartition(": ")[2])

    async def limit_checks(self, number: int) -> None:
        """Lets Envoy have at most so many checks in progress."""
        async with httpx.AsyncClient(trust_env=False) as client:
            url = f"http://{self.admin}/runtime_modify?circuit_breakers.ratelimitd.default.max_requests={number}"
            (await client.post(url)).raise_for_status()

    def logged(self, event: str) -> int:
        """Returns how often the logs of all replicas have this event."""
        return sum(replica.logged(event) for replica in self.replicas)


@asynccontextmanager
async def running_system(
    store_url: str,
    folder: Path,
    *,
    transport: str,
    settings: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
    policy: str | None = None,
) -> AsyncIterator[System]:
    """Runs the system until the end of the block.

    Args:
        store_url: the store of the replicas.
        folder: the folder of all logs.
        transport: that of the replicas.
        settings: more settings of the replicas, by name.
        wrapper: a command that starts each replica.
        policy: the policy to store first; that of the drills by default.
    """
    async with open_client(store_url) as client:
        await client.set(CONFIG_KEY, policy_text() if policy is None else policy)
    environ = _environ(store_url, {"transport": transport, **(settings or {})})
    front, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    replicas = [
        Replica(f"replica-{number}", TcpAddress(LOOPBACK, free_port()), environ, folder, wrapper)
        for number in range(1, REPLICAS + 1)
    ]
    async with AsyncExitStack() as stack:
        forward = await stack.enter_async_context(backend(folder))
        for replica in replicas:
            stack.push_async_callback(replica.kill)
        await asyncio.gather(*(replica.start() for replica in replicas))
        config = folder / "envoy.yaml"
        clusters = {"ratelimitd": [replica.address for replica in replicas], "backend": [forward]}
        config.write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
        envoy = child("envoy", parts.envoy_command(config), folder / "envoy.log", os.environ)
        process = await stack.enter_async_context(envoy)
        system = System(front, admin, replicas, environ, folder)
        await process.until(partial(system.healthy, REPLICAS))
        yield system


def _environ(store_url: str, settings: Mapping[str, str]) -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    given = {
        "redis_url": store_url,
        "address_header": ADDRESS_HEADER,
        "metrics_listen": f"{LOOPBACK}:0",
        "log_format": "json",
        **settings,
    }
    return others | {env_name(name): value for name, value in given.items()}
