"""The state of the policy in the store: config key, newest revision, lost policy.

A store that lost the config key and all revisions was emptied. The replicas keep the policy that they run,
and one of them writes it to `{CONFIG_KEY}:lost`. It is removed when the next revision is recorded, whose
number follows that of the lost one.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.core.model import MICRO
from ratelimitd.errors import PolicyError, Problem, StoreError
from ratelimitd.policy.text import DEFAULT_TEXT, sha256_of
from ratelimitd.rollout.revision import EXTERNAL, Revision
from ratelimitd.rollout.wrong_type import WRONG_TYPE, expecting, is_wrong_type
from ratelimitd.store.client import store_errors


class LostPolicy(BaseModel):
    """The policy that replicas run after the store was emptied.

    `number` is its revision. `noticed_us` is when a replica noticed the loss, by the store's clock.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    noticed_us: int
    text: str

    @property
    def revision(self) -> Revision:
        """The policy as a revision, whose author, note and time are lost."""
        note = "kept by the replicas, since the store was emptied"
        return Revision(
            number=self.number, sha256=sha256_of(self.text), at_us=0, author="", note=note, text=self.text
        )


@dataclass(frozen=True, slots=True)
class PolicySnapshot:
    """The config key and the newest revision's number, read in one round trip.

    Args:
        value: the value of the config key; None when the key is absent or not a string.
        wrong_type: the key is not a string.
        sha1: hex SHA-1 of the value; "" without a key, WRONG_TYPE when it is not a string.
        head: number of the newest revision, or else of the lost policy, or else 0.
        stored: the `sha1` that the newest revision left.
        lost: the policy that the store lost; None while there are revisions.
        now_us: the store's clock, in us since the epoch.
    """

    value: bytes | None
    wrong_type: bool
    sha1: str
    head: int
    stored: str
    lost: LostPolicy | None
    now_us: int

    @property
    def foreign(self) -> bool:
        """Whether the key was changed directly in Redis and no revision records that yet."""
        return self.sha1 != self.stored

    @property
    def empty(self) -> bool:
        """Whether the store holds neither a policy nor a revision: it is new, or it was emptied."""
        return self.is_lost or (self.value is None and not self.foreign and not self.head)

    @property
    def is_lost(self) -> bool:
        """Whether the lost policy is in force, because nothing was written since the store was emptied."""
        return self.lost is not None and self.value is None and not self.wrong_type

    def text(self) -> bytes | str:
        """Returns the policy text: without a key, the lost or the default policy.

        Raises PolicyError if the key is not a string.
        """
        if self.wrong_type:
            raise PolicyError(Problem("", "must be a string; the key holds another type"))
        if self.value is not None:
            return self.value
        return DEFAULT_TEXT if self.lost is None else self.lost.text

    def unrecorded(self) -> Revision:
        """Returns the foreign text, which is valid UTF-8, as the revision that `adopt` would make of it."""
        text, what = DEFAULT_TEXT, "the key was deleted"
        if self.value is not None:
            text, what = self.value.decode(), "written directly"
        return Revision(
            number=self.head + 1,
            sha256=sha256_of(text),
            at_us=0,
            author=EXTERNAL,
            note=f"{what}, not recorded yet",
            text=text,
        )


def sha1_of(value: bytes | None) -> str:
    """Returns `PolicySnapshot.sha1` for a value or an absent key. Redis scripts can compute it too."""
    return "" if value is None else hashlib.sha1(value, usedforsecurity=False).hexdigest()


def revisions_key(config_key: str) -> str:
    """Returns the key of the hash of revisions."""
    return f"{{{config_key}}}:revisions"


def lost_key(config_key: str) -> str:
    """Returns the key that holds the lost policy."""
    return f"{{{config_key}}}:lost"


async def read_snapshot(client: Redis, config_key: str) -> PolicySnapshot:
    """Reads the snapshot in one round trip. Raises StoreError."""
    key = revisions_key(config_key)
    with store_errors(), expecting(key, "hash"):
        # Not a transaction, because an ACL may forbid MULTI. In this order a commit between the reads looks
        # like a foreign text, which `Revisions.adopt` then finds recorded.
        pipeline = client.pipeline(transaction=False)
        pipeline.hmget(key, "head", "stored")
        pipeline.get(config_key)
        pipeline.get(lost_key(config_key))
        pipeline.time()
        kept, value, lost, now = await pipeline.execute(raise_on_error=False)
        wrong_type = is_wrong_type(value)
        for reply in (None if wrong_type else value, kept, None if is_wrong_type(lost) else lost, now):
            if isinstance(reply, Exception):
                raise reply
    lost_policy = None if kept[0] is not None or isinstance(lost, ResponseError) else _decoded(lost)
    return PolicySnapshot(
        value=None if wrong_type else value,
        wrong_type=wrong_type,
        sha1=WRONG_TYPE if wrong_type else sha1_of(value),
        head=head_number(config_key, kept[0]) if lost_policy is None else lost_policy.number,
        stored=(kept[1] or b"").decode(errors="replace"),
        lost=lost_policy,
        now_us=now[0] * MICRO + now[1],
    )


async def write_lost(client: Redis, config_key: str, lost: LostPolicy) -> None:
    """Writes the lost policy, for replicas that start and for operators. Raises StoreError."""
    with store_errors():
        await client.set(lost_key(config_key), json.dumps(lost.model_dump(), ensure_ascii=False))


def head_number(config_key: str, raw: bytes | str | None) -> int:
    """Returns the number of the newest revision from its field. Raises StoreError if it is not a number."""
    try:
        return int(raw or 0)
    except ValueError as error:
        key = revisions_key(config_key)
        raise StoreError(f"the field head of {key} must be a whole number, got {raw!r:.60}") from error


def _decoded(raw: bytes | str | None) -> LostPolicy | None:
    """Returns the lost policy from its JSON; None when there is none or it is damaged."""
    with suppress(ValidationError):
        return LostPolicy.model_validate_json(raw, strict=True) if raw else None
    return None
