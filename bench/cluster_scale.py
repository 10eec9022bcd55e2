"""Measures the CPU of a Redis Cluster per admitted decision, with one to three masters.

The load is in this process: callers take tokens of many users, from two buckets each, through the limiter of
the service. Every decision must be allowed.

    python -m bench.cluster_scale [ROUNDS]
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnectedError

from bench.errors import BenchError
from bench.process_usage import cpu_s
from bench.table import Table, markdown, with_spread
from ratelimitd.core.model import MICRO, Charge, Limit, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.limiter.opening import Parts, open_store_limiter
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import load
from ratelimitd.store.access import access_to
from ratelimitd.store.client import open_client
from ratelimitd.store.cluster_slots import SLOTS
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.telemetry.traces.opening import NO_TRACES

CALLERS = 128
DECISIONS = 24_000
USERS = 5_000
CHARGE = Charge(MICRO, (Limit(100_000, 1.0), Limit(100_000, 1.0)))


class Nodes(NamedTuple):
    """The masters of a running cluster: the URL of the first one, and the processes of all."""

    url: str
    pids: list[int]


class Figures(NamedTuple):
    """CPU in microseconds per decision: of the busiest node, of all nodes, and of this process."""

    busiest: float
    nodes: float
    client: float


@asynccontextmanager
async def _node() -> AsyncIterator[tuple[Redis, int, int, Child]]:
    """Yields a client of a node without slots, its port, the port of its bus, and its process."""
    port, bus_port = free_port(), free_port()
    with TemporaryDirectory(prefix="ratelimitd-bench-") as folder:
        options = (
            f"--port {port} --bind {LOOPBACK} --dir {folder} --cluster-enabled yes --cluster-port {bus_port}"
        )
        command = ["redis-server", *options.split(), "--save", ""]
        async with (
            child("redis-server", command, Path(folder) / "log", os.environ) as server,
            Redis(host=LOOPBACK, port=port, protocol=2) as client,
        ):

            async def answers() -> bool:
                try:
                    return bool(await client.ping())
                except NotConnectedError:
                    return False

            await server.until(answers)
            yield client, port, bus_port, server


@asynccontextmanager
async def running_cluster(masters: int) -> AsyncIterator[Nodes]:
    """Yields a cluster whose masters share all slots."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(_node()) for _ in range(masters)]
        for number, (client, port, bus_port, _) in enumerate(nodes):
            await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)  # type: ignore[no-untyped-call] # it is untyped
            slots = range(SLOTS * number // masters, SLOTS * (number + 1) // masters)
            await client.execute_command("CLUSTER", "ADDSLOTS", *slots)  # type: ignore[no-untyped-call] # it is untyped
            await nodes[0][0].execute_command("CLUSTER", "MEET", LOOPBACK, port, bus_port)  # type: ignore[no-untyped-call] # it is untyped
        for client, _, _, server in nodes:
            await server.until(partial(_serves, client))
        yield Nodes(f"redis+cluster://{LOOPBACK}:{nodes[0][1]}", [server.process.pid for *_, server in nodes])


async def _serves(client: Redis) -> bool:
    """Returns whether a node knows the owners of all slots, and serves."""
    info = await client.execute_command("CLUSTER", "INFO")  # type: ignore[no-untyped-call] # it is untyped
    return b"cluster_state:ok" in info and b"cluster_slots_assigned:%d\r" % SLOTS in info


@asynccontextmanager
async def _limiter(url: str) -> AsyncIterator[Limiter]:
    """Opens the limiter of the service over this store."""
    settings, access = load({}, {"redis_url": url, "store_timeout_ms": "5000"}), access_to(url)
    parts = Parts(settings, access, NO_TRACES, StoreCalls())
    async with open_client(access) as client, open_store_limiter(parts, client) as store:
        await store.settled()
        yield store.limiter


async def _measure(limiter: Limiter, nodes: Nodes) -> Figures:
    """Makes decisions from all callers. Returns the CPU that they took. Raises BenchError after a denial."""
    left = iter(range(DECISIONS))

    async def call() -> None:
        for number in left:
            user = f"rate:user:{{u{number % USERS}}}"
            if not (await limiter.take(TakeRequest(CHARGE, (user, f"{user}:api:*")))).allowed:
                raise BenchError("a decision was denied")

    before, own_s = [cpu_s(pid) for pid in nodes.pids], time.process_time()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    used = [(cpu_s(pid) - start) * 1e6 / DECISIONS for pid, start in zip(nodes.pids, before, strict=True)]
    return Figures(max(used), sum(used), (time.process_time() - own_s) * 1e6 / DECISIONS)


async def table(rounds: int) -> Table:
    """Measures clusters of one to three masters."""
    rows = []
    for masters in (1, 2, 3):
        async with running_cluster(masters) as nodes, _limiter(nodes.url) as limiter:
            await _measure(limiter, nodes)  # creates the buckets
            found = [await _measure(limiter, nodes) for _ in range(rounds)]
        rows.append([str(masters), *(with_spread(values, 1) for values in zip(*found, strict=True))])
    columns = ("masters", "busiest node us", "all nodes us", "client us")
    return Table(f"CPU per decision, {CALLERS} callers: median (minimum..maximum)", columns, rows)


if __name__ == "__main__":
    sys.stdout.write(markdown(asyncio.run(table(int(sys.argv[1]) if len(sys.argv) > 1 else 5))))
