"""Memory per user in the store, and memory of the service before and after many users."""

import asyncio
from pathlib import Path

from bench.errors import BenchError
from bench.goals import Goal
from bench.measure import measure
from bench.process_usage import memory
from bench.stores import REDIS, Store, open_limiter, running_store, take_request
from bench.table import Table
from bench.targets import Target
from bench.workloads import API, SIXTY_FOUR, STREAMS, Case, Entry, Workload, user_id

_BATCH = 64
_MAX_BYTES_PER_USER = {REDIS: 400, "valkey": 300}
_MB = 1 << 20


async def stored_bytes(kind: str, users: int) -> tuple[str, float, int]:
    """Returns the store's name, its bytes per active user, and MEMORY USAGE of the two keys of one user.

    Each user is charged twice, so that the buckets hold fractions of a token, as buckets in use do.
    """
    async with running_store(kind) as store:
        before = await store.used_bytes()
        for _ in range(2):
            await _charge(store, users)
        after = await store.used_bytes()
        key = f"rate:user:{user_id(0)}"
        keys = [int(await store.client.memory_usage(one) or 0) for one in (key, f"{key}:api:{API}")]
        return store.name, (after - before) / users, sum(keys)


async def _charge(store: Store, users: int) -> None:
    async with open_limiter(store.url) as limiter:
        for first in range(0, users, _BATCH):
            numbers = range(first, min(first + _BATCH, users))
            outcomes = await asyncio.gather(*(limiter.take(take_request(number)) for number in numbers))
            if not all(outcome.allowed for outcome in outcomes):
                raise BenchError("a user was denied while the store was being filled")


async def store_table(kinds: list[str], users: int) -> tuple[Table, list[Goal]]:
    """Bytes per user in each kind of store, and the goals for them."""
    rows, goals = [], []
    for kind in kinds:
        name, each, keys = await stored_bytes(kind, users)
        rows.append([name, f"{users}", f"{each:.0f}", f"{keys}"])
        goals.append(Goal(f"{name}, bytes per active user", _MAX_BYTES_PER_USER[kind], [each], digits=0))
    columns = [
        "store",
        "active users",
        "bytes per user (used_memory)",
        "bytes of the two keys (MEMORY USAGE)",
    ]
    return Table("Memory of the store", columns, rows), goals


async def service_table(targets: list[Target], users: int, folder: Path) -> Table:
    """Megabytes of each service's processes, before and after this number of users."""
    rows = []
    for target in targets:
        pid, entry = target.service_pid, Entry.DIRECT
        if pid is None:
            assert target.front is not None  # noqa: S101 - a target without a process runs inside an Envoy
            pid, entry = target.front.pid, Entry.ENVOY
        before = memory(pid)
        concurrency = STREAMS if entry is Entry.DIRECT else SIXTY_FOUR
        await measure(target, Case(entry, Workload.MANY, concurrency, target.name), users, folder, users)
        after = memory(pid)
        used = (f"{value / _MB:.0f}" for value in (before.rss, after.rss, before.pss, after.pss))
        rows.append([target.name, f"{users}", *used])
    columns = ["target", "users", "RSS before, MB", "RSS after, MB", "PSS before, MB", "PSS after, MB"]
    return Table("Memory of the service: already under load, before and after more users", columns, rows)
