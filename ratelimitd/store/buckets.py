"""Reads and deletes buckets for people, off the path of requests."""

from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.model import MICRO
from ratelimitd.store.client import store_errors

MAX_EXACT = 1 << 53
"""Above it a double, Lua's number, is no longer exact: no instant of ours is."""

SCAN_COUNT = 1000
"""Keys that the store looks at in one step of a search: under a millisecond of its time."""


class Stored(NamedTuple):
    """Buckets as the store holds them, and the store's clock in microseconds since the epoch."""

    buckets: dict[str, Bucket]
    now_us: int


class Buckets:
    """The buckets below `key_prefix`. Every method raises StoreError."""

    def __init__(self, client: Redis, key_prefix: str) -> None:
        self._client = client
        self._key_prefix = key_prefix

    async def read(self, keys: Sequence[str]) -> Stored:
        """Those of these keys that hold a bucket, at one instant. Nonsense is no bucket, as in take.lua."""
        with store_errors():
            async with self._client.pipeline(transaction=True) as pipeline:
                pipeline.time()
                for key in keys:
                    pipeline.hmget(key, "tokens", "last")
                (seconds, micros), *fields = await pipeline.execute()
        found = {key: _bucket(*pair) for key, pair in zip(keys, fields, strict=True)}
        buckets = {key: bucket for key, bucket in found.items() if bucket is not None}
        return Stored(buckets, int(seconds) * MICRO + int(micros))

    async def keys_of(self, identity_key: str) -> list[str]:
        """The keys of this identity's buckets, those in shadow too. It walks through all of the store."""
        found: list[str] = []
        with store_errors():
            for prefix in (self._key_prefix, f"{self._key_prefix}:shadow"):
                user = f"{prefix}:user:{identity_key}"
                if await self._client.exists(user):
                    found.append(user)
                # An identity's key and a prefix hold nothing that a glob would take for a wildcard.
                keys = self._client.scan_iter(match=f"{user}:api:*", count=SCAN_COUNT)
                found += [key.decode(errors="replace") async for key in keys]
        return sorted(set(found))

    async def delete(self, keys: Sequence[str]) -> None:
        """Deletes these buckets: each is a full one then."""
        if keys:
            with store_errors():
                await self._client.unlink(*keys)


def _bucket(tokens: bytes | str | None, last: bytes | str | None) -> Bucket | None:
    try:
        left, since = float(tokens or "nan"), float(last or "nan")
    except ValueError:
        return None
    if left >= 0 and 0 <= since < MAX_EXACT:
        return Bucket(round(left * MICRO), int(since))
    return None
