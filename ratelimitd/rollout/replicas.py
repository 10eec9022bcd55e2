"""Which replicas run, which revision each has in force, and what their shadows would have denied.

Each replica writes its own entry, each second, into the hash `{C}:replicas`. An entry that nobody can read is
passed over: it may be of another version of ratelimitd, or of somebody's hand.
"""

from collections.abc import Mapping
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis

from ratelimitd.core.model import MICRO
from ratelimitd.store.client import store_errors

LIVE_S = 5
"""A replica that was not seen for longer is not live."""

STALE_S = 60
"""An entry that was not seen for longer is removed."""

SHADOW_TTL_S = 7 * 24 * 3600
"""Counts of a revision are kept for so long after the last one was added."""


class Replica(BaseModel):
    """The entry of a running service.

    `number` and `digest` identify the policy in force: its revision, and the digest of its text. `refused`
    says why the text in the store is not in force, None when it is. Instants are us since the epoch;
    `seen_us` is the store's clock, as the replica read it just before. The entry's JSON calls the digest
    `revision`, as versions before 0.5 do, so that old and new replicas see each other.
    """

    model_config = ConfigDict(frozen=True, validate_by_name=True, validate_by_alias=True)

    id: str
    version: str
    transport: str
    number: int
    digest: str = Field(validation_alias="revision", serialization_alias="revision")
    refused: str | None
    started_us: int
    seen_us: int


class Replicas:
    """The replicas of the policy at `config_key`. Every method raises StoreError when the store fails."""

    def __init__(self, client: Redis, config_key: str) -> None:
        self._client = client
        self._config_key = config_key
        self._key = f"{{{config_key}}}:replicas"
        self._swept = False

    async def publish(self, replica: Replica) -> None:
        """Writes the replica's entry. The first call removes stale ones, and the last ones expire together.

        A start adds at most one entry, so removing them at a start keeps the hash small.
        """
        with store_errors():
            if not self._swept:
                stale = [
                    old.id for old in await self._all() if _age_us(old, replica.seen_us) > STALE_S * MICRO
                ]
                if stale:
                    await self._client.hdel(self._key, *stale)
            pipeline = self._client.pipeline(transaction=True)
            pipeline.hset(self._key, replica.id, replica.model_dump_json(by_alias=True))
            pipeline.expire(self._key, STALE_S)
            await pipeline.execute()
        self._swept = True

    async def leave(self, replica_id: str) -> None:
        """Removes the entry: the replica is stopping."""
        with store_errors():
            await self._client.hdel(self._key, replica_id)

    async def live(self, now_us: int) -> list[Replica]:
        """The replicas seen in the last LIVE_S before `now_us` (the store's clock), by id."""
        with store_errors():
            found = await self._all()
        live = [replica for replica in found if _age_us(replica, now_us) <= LIVE_S * MICRO]
        return sorted(live, key=lambda replica: replica.id)

    async def add_shadow(self, number: int, denied: Mapping[str, int]) -> None:
        """Adds how many requests each label's shadow would have denied under the revision of that number."""
        if not denied:
            return
        key = self._shadow_key(number)
        with store_errors():
            pipeline = self._client.pipeline(transaction=True)
            for label, count in denied.items():
                pipeline.hincrby(key, label, count)
            pipeline.expire(key, SHADOW_TTL_S)
            # What alone can fail now is a field that somebody's hand made no number: the others count.
            await pipeline.execute(raise_on_error=False)

    async def shadow(self, number: int) -> dict[str, int]:
        """How many requests each label's shadow would have denied under that revision, on all replicas."""
        with store_errors():
            found = await self._client.hgetall(self._shadow_key(number))
        counts = {}
        for label, count in found.items():
            with suppress(ValueError):
                counts[label.decode() if isinstance(label, bytes) else label] = int(count)
        return counts

    async def _all(self) -> list[Replica]:
        replicas = []
        for raw in await self._client.hvals(self._key):
            with suppress(ValidationError):
                replicas.append(Replica.model_validate_json(raw, strict=True))
        return replicas

    def _shadow_key(self, number: int) -> str:
        return f"{{{self._config_key}}}:shadow:{number}"


def _age_us(replica: Replica, now_us: int) -> int:
    """Without a sign: after a failover the clock may step back, and nobody is seen in the future."""
    return abs(now_us - replica.seen_us)
