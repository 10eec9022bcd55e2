"""Memory of the usage series at full retention: every count in use, for as many APIs as have a name."""

from random import Random
from typing import Any

from redis.asyncio.client import Pipeline

from bench.goals import Goal
from bench.stores import CONFIG_KEY, Store, running_store
from bench.table import Table
from ratelimitd.usage import layout
from ratelimitd.usage.layout import APIS_COARSE, APIS_FINE, COARSE, FINE, Level

MAX_MB = 8.0
_MB = 1_000_000
_PER_S = 1000
"""The most that a count grows by in a second."""

_APIS = [f"/api/v2/customers/*/orders/{number:03}" for number in range(layout.MAX_NAMES)]
_IDS = [*map(layout.api_id, _APIS), layout.OTHER_ID]
_CODES = (*layout.CODES.values(), layout.LOCAL, *layout.STORE_SECONDS, layout.REPLICAS)


async def usage_table(kinds: list[str]) -> tuple[Table, list[Goal]]:
    """Megabytes of each part of the series in each kind of store, and the goals for their sum."""
    rows, goals = [], []
    for kind in kinds:
        async with running_store(kind) as store:
            parts = [await _filled(store, level) for level in (FINE, COARSE, APIS_FINE, APIS_COARSE)]
            parts.append(await _named(store))
            total = sum(parts)
            rows.append([store.name, *(f"{part / _MB:.1f}" for part in (*parts, total))])
            goals.append(Goal(f"{store.name}, MB of the usage series", MAX_MB, [total / _MB], digits=1))
    columns = ["store", "by 10 s", "by minute", "APIs by minute", "APIs by half hour", "names", "all, MB"]
    return Table(f"Memory of the usage series with {len(_APIS)} APIs", columns, rows), goals


async def _filled(store: Store, level: Level) -> int:
    """Fills a level, and returns the bytes that it takes."""
    before = await store.used_bytes()
    now_s = int((await store.client.time())[0])
    random = Random(1)  # noqa: S311 - it makes test data
    start_s = now_s - level.kept_s
    for at_s in range(start_s - start_s % level.key_s, now_s + 1, level.key_s):
        pipeline = store.client.pipeline(transaction=False)
        _fill(pipeline, level, at_s, random)
        await pipeline.execute()
    return await store.used_bytes() - before


def _fill(pipeline: Pipeline, level: Level, at_s: int, random: Random) -> None:
    """Adds the commands that fill the hash at an instant."""
    key, most = level.key(CONFIG_KEY, at_s), _PER_S * level.bucket_s
    fields: dict[Any, str | int] = {}
    if level in {FINE, COARSE}:
        for offset in layout.OFFSETS[: level.per_key]:
            for code in _CODES:
                fields[f"{offset}{code}"] = random.randrange(1, most)
            fields[f"{offset}{layout.STATE}"] = f"123 {random.randrange(500 * _MB)} 500"
    else:
        for short in _IDS:
            for code in (layout.API_ALLOWED, layout.API_DENIED):
                fields[f"{short}{code}"] = random.randrange(1, most // 100)
    pipeline.hset(key, mapping=fields)
    pipeline.expire(key, level.kept_s)


async def _named(store: Store) -> int:
    """Writes the names of each day, and returns the bytes that they take."""
    before = await store.used_bytes()
    now_s = int((await store.client.time())[0])
    names: dict[Any, bytes] = {layout.api_id(api): layout.stored_name(api) for api in _APIS}
    for day in range(layout.NAMES_KEPT_S // layout.DAY_S + 1):
        key = layout.names_key(CONFIG_KEY, now_s - day * layout.DAY_S)
        await store.client.hset(key, mapping=names)
    return await store.used_bytes() - before
