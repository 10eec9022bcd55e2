"""The summaries of top users in the store: one short-lived key for each period of each replica.

    {CONFIG_KEY}:top:period:REPLICA:NUMBER   a period's summaries as JSON, for KEPT_S after the last write
    {CONFIG_KEY}:top:periods                 a hash of these keys; each field has its name as its value
    {CONFIG_KEY}:top:salt                    16 random bytes, for hashed names

So the users of a period are gone KEPT_S after its end, whether the replica still runs or not. Readers skip a
summary that they cannot read.
"""

import secrets
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from redis.asyncio import Redis

from ratelimitd.core.model import MAX_EXACT, MICRO
from ratelimitd.errors import StoreError
from ratelimitd.store.client import store_errors
from ratelimitd.usage.summary import Count, Summary

KEPT_S = 600
"""How long a period is kept after its last write. With the current period, this is the window of time."""

SALT_BYTES = 16

MAX_USERS = 1000
"""Users in a summary that readers accept."""

Key = Annotated[str, Field(max_length=160)]
Number = Annotated[int, Field(ge=0, lt=MAX_EXACT)]


class StoredSummary(BaseModel):
    """A summary as JSON. Each of `users` is a key, its requests and their error."""

    model_config = ConfigDict(frozen=True)

    total: Number
    floor: Number
    users: Annotated[list[tuple[Key, Number, Number]], Field(max_length=MAX_USERS)]

    @field_validator("users")
    @classmethod
    def _errors_are_possible(cls, users: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
        if any(error > requests for _, requests, error in users):
            raise ValueError("a count cannot be less than zero")
        return users

    @classmethod
    def of(cls, summary: Summary) -> "StoredSummary":
        """Returns the JSON form of a summary."""
        users = [(key, requests, error) for key, (requests, error) in summary.counts.items()]
        return cls(total=summary.total, floor=summary.floor, users=users)

    def summary(self) -> Summary:
        """Returns the summary."""
        counts = {key: Count(requests, error) for key, requests, error in self.users}
        return Summary(self.total, self.floor, counts)


class StoredPeriod(BaseModel):
    """A period of a replica.

    `began_us` is its beginning, by the store's clock. `mode` is the replica's setting `top_users`.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    mode: Literal["on", "hashed"]
    began_us: Number
    all: StoredSummary
    denied: StoredSummary


class Found(NamedTuple):
    """What the store holds.

    Args:
        periods: the periods of all replicas within the window.
        warnings: what cannot be read, and why.
        now_us: the store's clock in microseconds since the epoch.
    """

    periods: list[StoredPeriod]
    warnings: list[str]
    now_us: int


class TopStore:
    """The summaries at `{config_key}:top:`. Every method raises StoreError.

    Args:
        client: the store.
        config_key: the config key.
    """

    def __init__(self, client: Redis, config_key: str) -> None:
        self._client = client
        self._prefix = f"{{{config_key}}}:top"
        self._index = f"{self._prefix}:periods"

    async def now_us(self) -> int:
        """Returns the store's clock in microseconds since the epoch."""
        with store_errors():
            return _instant(await self._client.time())

    async def write(self, replica_id: str, periods: dict[int, StoredPeriod]) -> None:
        """Writes periods of a replica by their number, in one round trip."""
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            for number, period in periods.items():
                key = f"{self._prefix}:period:{replica_id}:{number}"
                pipeline.set(key, period.model_dump_json(), ex=KEPT_S)
                pipeline.hset(self._index, key, key)
            pipeline.expire(self._index, KEPT_S)
            await pipeline.execute()

    async def sweep(self) -> None:
        """Removes the keys that have expired from the hash of keys."""
        with store_errors():
            keys = await self._client.hvals(self._index)
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.type(key)
            kinds = await pipeline.execute()
            expired = [key for key, kind in zip(keys, kinds, strict=True) if kind == b"none"]
            if expired:
                await self._client.hdel(self._index, *expired)

    async def salt(self) -> bytes:
        """Returns the salt that all replicas share. Makes one if there is none."""
        key = f"{self._prefix}:salt"
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.set(key, secrets.token_bytes(SALT_BYTES), nx=True)
            pipeline.expire(key, 2 * KEPT_S)
            pipeline.get(key)
            *_, salt = await pipeline.execute()
        if salt is None:
            raise StoreError(f"the store lost the key {key}")
        return bytes(salt)

    async def read(self) -> Found:
        """Returns the periods of all replicas within the window."""
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            pipeline.time()
            pipeline.hvals(self._index)
            now, index = await pipeline.execute(raise_on_error=False)
            found = Found([], [], _instant(now))
            if _is_wrong_type(index):
                found.warnings.append(
                    f"the key {self._index} must be a hash, but holds another type; delete it"
                )
                return found
            keys = [key for key in index if key.startswith(f"{self._prefix}:period:".encode())]
            pipeline = self._client.pipeline(transaction=False)
            for key in keys:
                pipeline.get(key)
            values = await pipeline.execute(raise_on_error=False)
            for key, value in zip(keys, values, strict=True):
                period = None if _is_wrong_type(value) else _period(value)
                if period is not None:
                    found.periods.append(period)
                elif value is not None:  # it has not expired
                    found.warnings.append(
                        f"the key {key.decode(errors='replace')} cannot be read and is left out"
                    )
        return found


def _is_wrong_type(reply: object) -> bool:
    """Returns whether a reply is the error of Redis for a key of another type. Raises any other error."""
    if not isinstance(reply, Exception):
        return False
    if not str(reply).startswith("WRONGTYPE"):
        raise reply
    return True


def _period(value: bytes | None) -> StoredPeriod | None:
    try:
        return StoredPeriod.model_validate_json(value or b"", strict=True)
    except ValidationError:  # another version or a person wrote it
        return None


def _instant(now: Sequence[int]) -> int:
    seconds, micros = now
    return int(seconds) * MICRO + int(micros)
