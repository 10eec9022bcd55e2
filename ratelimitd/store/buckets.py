"""Reads and deletes buckets for operators. Decisions do not use this module."""

from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import MAX_EXACT, MICRO
from ratelimitd.store.client import store_errors

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
    """The buckets with keys of this layout. Every method raises StoreError."""

    def __init__(self, client: Redis, layout: KeyLayout) -> None:
        self._client = client
        self._layout = layout

    async def read(self, keys: Sequence[str]) -> Stored:
        """Returns the state of these keys, in one round trip.

        take.lua treats an absent key, and one that does not hold a valid bucket, as a full bucket.
        """
        with store_errors():
            async with self._client.pipeline(transaction=False) as pipeline:
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

    async def keys_of(self, identity_key: str) -> list[str]:
        """Returns the keys of this identity's buckets, shadow buckets included. It scans the whole store."""
        found: list[str] = []
        with store_errors():
            for pattern in self._layout.globs(identity_key):
                if "*" in pattern:
                    keys = self._client.scan_iter(match=pattern, count=SCAN_COUNT)
                    found += [key.decode(errors="replace") async for key in keys]
                elif await self._client.exists(pattern):
                    found.append(pattern)
        return sorted(set(found))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes the buckets at these keys. A bucket without a key is full."""
        if keys:
            with store_errors():
                await self._client.unlink(*keys)


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
