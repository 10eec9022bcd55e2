"""The running replicas, the policy that each has in force, and what their shadows would have denied.

Each replica writes its own entry into the hash `{CONFIG_KEY}:replicas` every second. Readers skip an entry
that they cannot read: another version of ratelimitd or a person may have written it.
"""

from collections.abc import Mapping
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.core.model import MICRO
from ratelimitd.rollout.wrong_type import expecting
from ratelimitd.store.client import store_errors

SILENT_S = 5
"""A replica is silent if it wrote no entry within this time: it may be frozen, cut off or killed."""

STALE_S = 60
"""An older entry is not listed, and removed by the next replica that starts."""

SHADOW_TTL_S = 7 * 24 * 3600
"""How long the shadow counts of a revision are kept after the last addition."""


class Replica(BaseModel):
    """The entry of a running replica.

    `number` and `digest` identify the policy in force: its revision, and the digest of its text. `refused`
    says why the text in the store is not in force, None when it is. Instants are in us since the epoch;
    `seen_us` is the store's clock when the entry was written. In Redis the digest is the field `revision`,
    as in versions before 0.5, so that replicas of both see each other. `unreadable_addresses` counts the
    requests since the start whose address header was missing or held no address. `top_users` is the setting;
    versions before 0.7 count no users and write no such field.
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
    unreadable_addresses: int = 0
    top_users: str = "off"

    def age_us(self, now_us: int) -> int:
        """Returns the time between the entry and `now_us`, in either direction: a clock may step back."""
        return abs(now_us - self.seen_us)

    def is_silent(self, now_us: int) -> bool:
        """Returns whether the replica has stopped writing its entry, by the store's clock."""
        return self.age_us(now_us) > SILENT_S * MICRO


class Replicas:
    """The replicas of the policy at `config_key`. Every method raises StoreError when the store fails."""

    def __init__(self, client: Redis, config_key: str) -> None:
        self._client = client
        self._config_key = config_key
        self._key = f"{{{config_key}}}:replicas"
        self._swept = False

    async def publish(self, replica: Replica) -> None:
        """Writes a replica's entry. The hash expires STALE_S after the last entry was written.

        The first call also removes stale entries. A start adds at most one entry, so this keeps the hash
        small.
        """
        with store_errors(), expecting(self._key, "hash"):
            if not self._swept:
                stale = [old.id for old in await self._all() if old.age_us(replica.seen_us) > STALE_S * MICRO]
                if stale:
                    await self._client.hdel(self._key, *stale)
            pipeline = self._client.pipeline(transaction=False)
            pipeline.hset(self._key, replica.id, replica.model_dump_json(by_alias=True))
            pipeline.expire(self._key, STALE_S)
            await pipeline.execute()
        self._swept = True

    async def leave(self, replica_id: str) -> None:
        """Removes the entry of a replica that stops."""
        with store_errors():
            await self._client.hdel(self._key, replica_id)

    async def listed(self, now_us: int) -> list[Replica]:
        """Returns the replicas that wrote within STALE_S of `now_us`, the store's clock, sorted by id."""
        with store_errors(), expecting(self._key, "hash"):
            found = await self._all()
        recent = [replica for replica in found if replica.age_us(now_us) <= STALE_S * MICRO]
        return sorted(recent, key=lambda replica: replica.id)

    async def add_shadow(self, number: int, denied: Mapping[str, int]) -> None:
        """Adds to the counts of requests that each shadow would have denied under a revision."""
        if not denied:
            return
        key = self._shadow_key(number)
        with store_errors():
            pipeline = self._client.pipeline(transaction=False)
            for name, count in denied.items():
                pipeline.hincrby(key, name, count)
            pipeline.expire(key, SHADOW_TTL_S)
            for reply in await pipeline.execute(raise_on_error=False):
                # A field that was made non-numeric by hand must not keep the others from counting.
                if isinstance(reply, ResponseError) and "not an integer" not in str(reply):
                    raise reply

    async def shadow(self, number: int) -> dict[str, int]:
        """Returns how many requests each shadow would have denied under a revision, on all replicas."""
        with store_errors(), expecting(self._shadow_key(number), "hash"):
            found = await self._client.hgetall(self._shadow_key(number))
        counts = {}
        for name, count in found.items():
            with suppress(ValueError):
                counts[name.decode() if isinstance(name, bytes) else name] = int(count)
        return counts

    async def _all(self) -> list[Replica]:
        replicas = []
        for raw in await self._client.hvals(self._key):
            with suppress(ValidationError):
                replicas.append(Replica.model_validate_json(raw, strict=True))
        return replicas

    def _shadow_key(self, number: int) -> str:
        return f"{{{self._config_key}}}:shadow:{number}"
