"""What users cost in memory: in the store, and in the service that they passed through."""

import asyncio
from pathlib import Path

from bench.cpu import memory
from bench.forms import Form
from bench.goals import Goal
from bench.http2 import LoadError
from bench.load import measure
from bench.messages import API, user_id
from bench.stores import REDIS, Store, limiting, running_store, spend
from bench.table import Table
from bench.works import MANY_CONNECTIONS, STREAMS, Cell, Way, Work

_BATCH = 64
_BYTES_A_USER = {REDIS: 400, "valkey": 300}
_MB = 1 << 20


async def stored_bytes(kind: str, users: int) -> tuple[str, float, int]:
    """The store's name, its bytes per active user, and those of one user's two keys by MEMORY USAGE.

    Each user is charged twice: only then has a bucket a fraction of a token, as buckets in use have.
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
    async with limiting(store.url) as limiter:
        for first in range(0, users, _BATCH):
            batch = [limiter.take(spend(number)) for number in range(first, min(first + _BATCH, users))]
            outcomes = await asyncio.gather(*batch)
            if not all(outcome.allowed for outcome in outcomes):
                raise LoadError("a user was denied while the store was filled")


async def store_table(kinds: list[str], users: int) -> tuple[Table, list[Goal]]:
    """Bytes per user on each kind of store, and the goals for it."""
    rows, goals = [], []
    for kind in kinds:
        name, each, keys = await stored_bytes(kind, users)
        rows.append([name, f"{users}", f"{each:.0f}", f"{keys}"])
        goals.append(Goal(f"{name}, bytes per active user", _BYTES_A_USER[kind], [each], digits=0))
    columns = ["store", "active users", "bytes a user (used_memory)", "bytes of the two keys (MEMORY USAGE)"]
    return Table("Memory of the store", columns, rows), goals


async def service_table(forms: list[Form], users: int, folder: Path) -> Table:
    """Megabytes of each form's processes, before and after so many users have passed through."""
    rows = []
    for form in forms:
        pid, way = form.service, Way.DIRECT
        if pid is None:
            assert form.front is not None  # noqa: S101 - a form has a process
            pid, way = form.front[1], Way.FRONT
        before = memory(pid)
        point = STREAMS if way is Way.DIRECT else MANY_CONNECTIONS
        await measure(form, Cell(way, Work.MANY, point, form.name), users, folder, users)
        after = memory(pid)
        rows.append(
            [
                form.name,
                f"{users}",
                *(f"{used / _MB:.0f}" for used in (before.rss, after.rss, before.pss, after.pss)),
            ]
        )
    columns = ["form", "users", "RSS before, MB", "after", "PSS before, MB", "after"]
    return Table("Memory of the service, which has been under load before", columns, rows)
