"""Asks a store whether it refuses writes, without writing."""

from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError


async def refused_writes(client: Redis) -> str | None:
    """Returns the reason, which begins with the error code of Redis.

    None: the store takes writes, or does not say, because the user may not run INFO.
    """
    try:
        await client.ping()
    except ResponseError as error:  # with a full disk Redis refuses PING like a write
        return str(error) if str(error).startswith("MISCONF") else None
    with suppress(RedisError):
        info = await client.info()
        return _by_role(info) or _by_memory(info) or await _by_replicas(client, info)
    return None


def _by_role(info: dict[str, Any]) -> str | None:
    if info.get("role") == "slave" and info.get("slave_read_only"):
        return "READONLY the store is a read-only replica"
    return None


def _by_memory(info: dict[str, Any]) -> str | None:
    limit = info.get("maxmemory", 0)
    used = info.get("used_memory", 0) - info.get("mem_not_counted_for_evict", 0)
    if limit and used > limit and info.get("maxmemory_policy") == "noeviction":
        return f"OOM the store uses {used} bytes, and its maxmemory is {limit}"
    return None


async def _by_replicas(client: Redis, info: dict[str, Any]) -> str | None:
    good = info.get("min_slaves_good_slaves")
    if good is None:
        return None
    wanted = 1
    with suppress(ResponseError):
        wanted = int((await client.config_get("min-replicas-to-write")).get("min-replicas-to-write") or 1)
    return f"NOREPLICAS the store has {good} good replicas and needs {wanted}" if good < wanted else None
