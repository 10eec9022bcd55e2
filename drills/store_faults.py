"""Faults of a single Redis."""

import asyncio
import math
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from drills.drill import BOTH, Drill, Result, Site, result
from drills.isolation import need_isolation, run
from drills.loaded import loaded
from drills.policy import CAPACITY, REFILL_RATE, TIGHT_USERS
from drills.records import UNAVAILABLE
from drills.stores import IN_MEMORY, ON_DISK, redis_server
from drills.system import REPLICAS

HANG_S = 10.0
_PROBED_S = 1.0
"""How much longer than Redis hangs the replicas may decide from memory."""

_LOCAL = math.ceil(CAPACITY + REPLICAS - 1 + REFILL_RATE * (HANG_S + _PROBED_S))
"""What an outage with `local` may admit of one user above the limit, as docs/policy.md derives it."""

_DISK_BYTES = 16 << 20
_ANSWER_S = 10.0
"""How long the first refused write may take to reach a client."""


async def restarted(site: Site) -> Result:
    """Kills Redis, which writes to disk every second, and starts it again."""
    return await _restarted(site, ON_DISK)


async def emptied(site: Site) -> Result:
    """Kills Redis, which writes nothing to disk, and starts it again."""
    return await _restarted(site, IN_MEMORY)


async def _restarted(site: Site, options: tuple[str, ...]) -> Result:
    async with redis_server(site.folder, options) as store, loaded(site, store.url) as (_, sent):
        sent.begin()
        await store.kill()
        await asyncio.sleep(site.seconds)
        await store.start()
        sent.over()
    return result(sent)


async def hung(site: Site) -> Result:
    """Freezes Redis for 10 s. It accepts connections meanwhile, and executes later what it received."""
    return await _hung(site, {})


async def hung_with_local(site: Site) -> Result:
    """Freezes Redis for 10 s, while the replicas decide from memory."""
    return await _hung(site, {"on_store_error": "local"})


async def _hung(site: Site, settings: Mapping[str, str]) -> Result:
    async with (
        redis_server(site.folder) as store,
        loaded(site, store.url, settings=settings) as (_, sent),
    ):
        sent.begin()
        store.signal(signal.SIGSTOP)
        await asyncio.sleep(HANG_S)
        store.signal(signal.SIGCONT)
        sent.over()
    return result(sent)


async def memory_full(site: Site) -> Result:
    """Lowers maxmemory below what is in use, so that Redis refuses every write with OOM."""
    async with (
        redis_server(site.folder) as store,
        loaded(site, store.url) as (_, sent),
        store.client() as client,
    ):
        sent.begin()
        await client.config_set("maxmemory", 1)
        await sent.answers(_ANSWER_S, UNAVAILABLE)
        await asyncio.sleep(site.seconds)
        await client.config_set("maxmemory", 0)
        sent.over()
    return result(sent)


async def disk_full(site: Site) -> Result:
    """Fills the disk under Redis, which then refuses every write with MISCONF."""
    need_isolation("mount", "umount")
    async with AsyncExitStack() as stack:
        disk = site.folder / "disk"
        disk.mkdir()
        await run("mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk))
        stack.push_async_callback(run, "umount", str(disk))
        store = await stack.enter_async_context(redis_server(disk, ON_DISK))
        async with loaded(site, store.url) as (_, sent):
            sent.begin()
            filler = disk / "filler"
            await asyncio.to_thread(_fill, filler)
            await sent.answers(_ANSWER_S, UNAVAILABLE)
            await asyncio.sleep(site.seconds)
            filler.unlink()
            sent.over()
    return result(sent)


def _fill(path: Path) -> None:
    """Writes until no byte is left on the disk."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(os.urandom(1) * size)
            except OSError:
                continue


DRILLS = [
    Drill(
        "redis-kill",
        "SIGKILL and restart of Redis, AOF every second",
        restarted,
        may_over_admit=CAPACITY * TIGHT_USERS,
        transports=BOTH,
    ),
    Drill("redis-empty", "restart of Redis with no data", emptied, may_over_admit=CAPACITY * TIGHT_USERS),
    Drill("redis-hang", f"Redis hangs for {HANG_S:g} s (SIGSTOP)", hung, transports=BOTH),
    Drill(
        "redis-hang-local",
        f"Redis hangs for {HANG_S:g} s, on_store_error: local",
        hung_with_local,
        may_over_admit=_LOCAL * TIGHT_USERS,
        transports=BOTH,
    ),
    Drill("redis-maxmemory", "maxmemory reached (OOM)", memory_full),
    Drill("redis-disk-full", "full disk under Redis (MISCONF)", disk_full),
]
