"""Faults of a Redis Cluster, and moving its slots under load."""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from drills.drill import BOTH, Drill, Result, Site, result
from drills.isolation import need, run
from drills.loaded import loaded
from drills.policy import CAPACITY, TIGHT_USERS
from drills.stores import IN_MEMORY, RedisServer
from drills.waiting import until
from ratelimitd.process.loopback import free_port

NODE_TIMEOUT_S = 1.0
"""How long a node is silent before the others count it as failing: `cluster-node-timeout`."""

MASTERS = 3
_MOVED_SLOTS = 3_000
_FAILOVER_S = _READY_S = 30.0
_INFO = ("CLUSTER", "INFO")
_MY_ID = ("CLUSTER", "MYID")


def cluster_url(servers: Sequence[RedisServer]) -> str:
    """Returns the store URL of a cluster with these nodes."""
    return "redis+cluster://" + ",".join(map(_node, servers))


@asynccontextmanager
async def redis_cluster(folder: Path) -> AsyncIterator[list[RedisServer]]:
    """Runs a cluster until the end of the block. Yields its masters, then a replica of each."""
    need("redis-cli")
    servers = [RedisServer(folder, _options()) for _ in range(2 * MASTERS)]
    async with AsyncExitStack() as stack:
        for server in servers:
            stack.push_async_callback(server.kill)
            await server.start()
        create = ("redis-cli", "--cluster", "create", *map(_node, servers))
        await run(*create, "--cluster-replicas", "1", "--cluster-yes")
        await until(partial(_complete, servers), _READY_S, "the cluster is complete")
        yield servers


def _options() -> tuple[str, ...]:
    timeout_ms = f"{NODE_TIMEOUT_S * 1000:.0f}"
    cluster = ("--cluster-enabled", "yes", "--cluster-node-timeout", timeout_ms)
    return (*IN_MEMORY, *cluster, "--cluster-port", str(free_port()), "--repl-diskless-sync-delay", "0")


def _node(server: RedisServer) -> str:
    return f"{server.host}:{server.port}"


async def _complete(servers: Sequence[RedisServer]) -> bool:
    """Returns whether each of these nodes knows a working master of every slot."""
    return all([await _knows_all_slots(server) for server in servers])


async def _knows_all_slots(server: RedisServer) -> bool:
    async with server.client() as client:
        info = await client.execute_command(*_INFO)  # type: ignore[no-untyped-call] # redis-py
    return b"cluster_state:ok" in info and b"cluster_slots_ok:16384" in info


async def _id_of(server: RedisServer) -> str:
    async with server.client() as client:
        found: bytes = await client.execute_command(*_MY_ID)  # type: ignore[no-untyped-call] # redis-py
    return found.decode()


async def _some_slot_is_lost(servers: Sequence[RedisServer]) -> bool:
    return not await _complete(servers)


async def _failed_over(others: Sequence[RedisServer]) -> None:
    await until(partial(_some_slot_is_lost, others), _FAILOVER_S, "the cluster notices the failure")
    await until(partial(_complete, others), _FAILOVER_S, "a replica takes the slots over")


async def killed(site: Site) -> Result:
    """Kills a master for good. Its replica takes over."""
    async with redis_cluster(site.folder) as servers, loaded(site, cluster_url(servers)) as (_, sent):
        sent.begin()
        await servers[0].kill()
        await _failed_over(servers[1:])
    return result(sent)


async def hung(site: Site) -> Result:
    """Freezes a master until its replica has taken over, then lets it go on."""
    async with redis_cluster(site.folder) as servers, loaded(site, cluster_url(servers)) as (_, sent):
        sent.begin()
        servers[0].signal(signal.SIGSTOP)
        await _failed_over(servers[1:])
        await asyncio.sleep(site.seconds)
        servers[0].signal(signal.SIGCONT)
        await asyncio.sleep(site.seconds)
    return result(sent)


async def resharded(site: Site) -> Result:
    """Moves slots, with the buckets in them, from one master to another."""
    async with redis_cluster(site.folder) as servers, loaded(site, cluster_url(servers)) as (_, sent):
        source, target = await _id_of(servers[0]), await _id_of(servers[1])
        sent.begin()
        await run(
            *("redis-cli", "--cluster", "reshard", _node(servers[0]), "--cluster-yes"),
            *("--cluster-from", source, "--cluster-to", target, "--cluster-slots", str(_MOVED_SLOTS)),
        )
        sent.over()
    return result(sent, note=f"{_MOVED_SLOTS} slots moved")


_UNREPLICATED = CAPACITY * TIGHT_USERS
"""What tight users get at most when the new master never heard of their last requests."""

DRILLS = [
    Drill(
        "cluster-kill",
        f"Cluster failover: SIGKILL of 1 of {MASTERS} masters (node timeout {NODE_TIMEOUT_S:g} s)",
        killed,
        may_over_admit=_UNREPLICATED,
        transports=BOTH,
    ),
    Drill(
        "cluster-hang",
        "Cluster failover: a master hangs and comes back",
        hung,
        may_over_admit=_UNREPLICATED,
    ),
    Drill("cluster-reshard", "slots of the Cluster move under load", resharded),
]
