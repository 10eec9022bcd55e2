"""Reads and deletes buckets for operators. Decisions do not use this module."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import NamedTuple

from redis.asyncio import Redis

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import MAX_EXACT, MICRO
from ratelimitd.store.client import store_errors
from ratelimitd.store.cluster_client import ClusterClient
from ratelimitd.store.cluster_slots import slot_of

SCAN_COUNT = 1000
"""Keys that the store examines in one step of a search, which blocks it for less than a millisecond."""


class Stored(NamedTuple):
    """The state of some keys.

    Args:
        buckets: by key.
        not_buckets: the Redis type of each key that exists without holding a valid bucket.
        now_us: the time of the store's clock in microseconds since the epoch.
    """

    buckets: dict[str, Bucket]
    not_buckets: dict[str, str]
    now_us: int


class Buckets:
    """The buckets with keys of a layout. Every method raises StoreError.

    In a cluster, the buckets of an identity are on one master, and the global bucket may be on another one.
    """

    def __init__(self, client: Redis, layout: KeyLayout) -> None:
        self._client = client
        self._layout = layout

    async def read(self, keys: Sequence[str]) -> Stored:
        """Returns the state of these keys, in one round trip to each master that has some of them.

        take.lua treats an absent key, and one that does not hold a valid bucket, as a full bucket.
        """
        with store_errors():
            first, *others = await asyncio.gather(*map(self._read, self._by_slot(keys)))
        for other in others:
            ahead_us = first.now_us - other.now_us  # the nodes of a cluster have a clock each
            first.buckets.update(
                {key: Bucket(one.tokens, max(0, one.last + ahead_us)) for key, one in other.buckets.items()}
            )
            first.not_buckets.update(other.not_buckets)
        return first

    async def keys_of(self, identity_key: str) -> list[str]:
        """Returns the keys of this identity's buckets, shadow buckets included. It scans the whole store."""
        globs = self._layout.globs(identity_key)
        patterns = [glob for glob in globs if "*" in glob]
        with store_errors():
            found = [key for key in globs if key not in patterns and await self._exists(key)]
            if isinstance(self._client, ClusterClient):
                masters = (await self._client.topology.refresh()).masters
                scans = [self._scan(self._client.at(node), patterns) for node in masters]
            else:
                scans = [self._scan(nullcontext(self._client), patterns)]
            for keys in await asyncio.gather(*scans):
                found += keys
        return sorted(set(found))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes the buckets at these keys. A bucket without a key is full."""
        with store_errors():
            for some in self._by_slot(keys):
                async with self._owner(some) as client, client.pipeline(transaction=False) as pipeline:
                    for key in some:
                        pipeline.unlink(key)
                    await pipeline.execute()

    def _by_slot(self, keys: Sequence[str]) -> list[Sequence[str]]:
        """Returns the keys that one master has together."""
        if not isinstance(self._client, ClusterClient) or not keys:
            return [keys]
        groups: dict[int, list[str]] = {}
        for key in keys:
            groups.setdefault(slot_of(key), []).append(key)
        return [*groups.values()]

    def _owner(self, keys: Sequence[str]) -> AbstractAsyncContextManager[Redis]:
        """Yields a client of the master that has these keys."""
        if isinstance(self._client, ClusterClient) and keys:
            return self._client.leading_to(keys[0])
        return nullcontext(self._client)

    async def _exists(self, key: str) -> bool:
        async with self._owner([key]) as client:
            return bool(await client.exists(key))

    async def _scan(self, opening: AbstractAsyncContextManager[Redis], patterns: Sequence[str]) -> list[str]:
        async with opening as client:
            return [
                key.decode(errors="replace")
                for pattern in patterns
                async for key in client.scan_iter(match=pattern, count=SCAN_COUNT)
            ]

    async def _read(self, keys: Sequence[str]) -> Stored:
        async with self._owner(keys) as client, client.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for key in keys:
                pipeline.type(key)
                pipeline.hmget(key, "tokens", "last")
            now, *found = await pipeline.execute(raise_on_error=False)
        _raise_unexpected([now, *found])
        seconds, micros = now
        stored = Stored({}, {}, int(seconds) * MICRO + int(micros))
        for key, kind, fields in zip(keys, found[::2], found[1::2], strict=True):
            bucket = None if isinstance(fields, Exception) else _bucket(*fields)
            if bucket is not None:
                stored.buckets[key] = bucket
            elif kind != b"none":
                stored.not_buckets[key] = kind.decode()
        return stored


def layout_of(client: Redis, key_prefix: str) -> KeyLayout:
    """Returns how the keys of buckets are built in the store of a client."""
    return KeyLayout(key_prefix, tagged=isinstance(client, ClusterClient))


def _raise_unexpected(replies: Sequence[object]) -> None:
    """Raises the first error that does not come from the type of a key."""
    for reply in replies:
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply


def _bucket(tokens: bytes | str | None, last: bytes | str | None) -> Bucket | None:
    try:
        left, since = float(tokens or "nan"), float(last or "nan")
    except ValueError:
        return None
    if 0 <= left < MAX_EXACT and 0 <= since < MAX_EXACT:
        return Bucket(round(left * MICRO), int(since))
    return None
