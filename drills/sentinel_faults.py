"""Faults of a master that Sentinels watch."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from drills.drill import BOTH, Drill, Result, Site, result
from drills.loaded import loaded
from drills.policy import CAPACITY, TIGHT_USERS
from drills.stores import IN_MEMORY, RedisServer
from drills.waiting import until

SERVICE = "drill"
DOWN_AFTER_S = 1.0
"""How long a master is silent before its Sentinels agree that it is down: `down-after-milliseconds`."""

_ADDRESS = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
_STATE = ("SENTINEL", "MASTER", SERVICE)
_REPLICAS, _SENTINELS, _QUORUM = 2, 3, 2
_FAILOVER_S = 20.0
_AGREED_S = 20.0


@dataclass(frozen=True)
class Watched:
    """A master with replicas, watched by Sentinels.

    Args:
        servers: the master first.
        sentinels: the Sentinels.
    """

    servers: list[RedisServer]
    sentinels: list[RedisServer]

    @property
    def url(self) -> str:
        """The store URL."""
        nodes = ",".join(f"{one.host}:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{nodes}/{SERVICE}/0"

    async def failed_over(self) -> None:
        """Waits until a Sentinel names another master than the first."""

        async def other_master() -> bool:
            async with self.sentinels[0].client() as client:
                _, port = await client.execute_command(*_ADDRESS)  # type: ignore[no-untyped-call] # redis-py
            return int(port) != self.servers[0].port

        await until(other_master, _FAILOVER_S, "the Sentinels name another master")

    async def ready(self) -> None:
        """Waits until the Sentinels know all servers and each other."""

        async def complete() -> bool:
            return all([await _knows_all(one) for one in self.sentinels])

        await until(complete, _AGREED_S, "the Sentinels know all servers")


async def _knows_all(sentinel: RedisServer) -> bool:
    async with sentinel.client() as client:
        state = await _master_state(client)
    return (state["num-slaves"], state["num-other-sentinels"]) == (str(_REPLICAS), str(_SENTINELS - 1))


async def _master_state(client: Redis) -> dict[str, str]:
    reply = await client.execute_command(*_STATE)  # type: ignore[no-untyped-call] # redis-py
    fields = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in fields}


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[Watched]:
    """Runs a master, its replicas and their Sentinels until the end of the block."""
    master = RedisServer(folder)
    replica_of = ("--replicaof", f"{master.host} {master.port}", "--repl-diskless-sync-delay", "0")
    servers = [master, *(RedisServer(folder, (*IN_MEMORY, *replica_of)) for _ in range(_REPLICAS))]
    config = (
        f"sentinel monitor {SERVICE} {master.host} {master.port} {_QUORUM}\n"
        f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_S * 1000:.0f}\n"
        f"sentinel failover-timeout {SERVICE} 5000\n"
    )
    sentinels = [RedisServer(folder, ("--sentinel",), config=config) for _ in range(_SENTINELS)]
    async with AsyncExitStack() as stack:
        for server in (*servers, *sentinels):
            stack.push_async_callback(server.kill)
            await server.start()
        store = Watched(servers, sentinels)
        await store.ready()
        yield store


async def killed(site: Site) -> Result:
    """Kills the master for good."""
    async with watched(site.folder) as store, loaded(site, store.url) as (_, sent):
        sent.begin()
        await store.servers[0].kill()
        await store.failed_over()
    return result(sent)


async def hung(site: Site) -> Result:
    """Freezes the master until another one has been elected, then lets it go on."""
    async with watched(site.folder) as store, loaded(site, store.url) as (_, sent):
        sent.begin()
        store.servers[0].signal(signal.SIGSTOP)
        await store.failed_over()
        await asyncio.sleep(site.seconds)
        store.servers[0].signal(signal.SIGCONT)
        await asyncio.sleep(site.seconds)
    return result(sent)


_UNREPLICATED = CAPACITY * TIGHT_USERS
"""What tight users get at most when the new master never heard of their last requests."""

DRILLS = [
    Drill(
        "sentinel-kill",
        f"Sentinel failover: SIGKILL of the master (down after {DOWN_AFTER_S:g} s)",
        killed,
        may_over_admit=_UNREPLICATED,
        transports=BOTH,
    ),
    Drill(
        "sentinel-hang",
        "Sentinel failover: the master hangs and comes back",
        hung,
        may_over_admit=_UNREPLICATED,
    ),
]
