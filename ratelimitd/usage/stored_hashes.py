"""Reads hashes of the usage series from the store."""

from collections.abc import Mapping
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.store.client import store_errors


class Hash(NamedTuple):
    """A hash in the store, and the beginning of the time that it covers."""

    key: str
    at_s: int
    fields: Mapping[bytes, bytes]


async def read_hashes(client: Redis, keys: Mapping[str, int], warnings: list[str]) -> list[Hash]:
    """Returns the hashes at these keys, each with its beginning. Raises StoreError.

    A key of another type is left out, with a warning.
    """
    with store_errors():
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        replies = await pipeline.execute(raise_on_error=False)
        found = []
        for (key, at_s), reply in zip(keys.items(), replies, strict=True):
            if not isinstance(reply, Exception):
                found.append(Hash(key, at_s, reply))
            elif isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                warnings.append(f"the key {key} must be a hash, but holds another type; delete it")
            else:
                raise reply
    return found
