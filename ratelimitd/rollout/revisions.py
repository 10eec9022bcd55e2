"""Numbered revisions of the policy in Redis. When two changes collide, one wins and the other is rejected.

The text in force is the value of the config key, where redis-cli can read and write it. The hash
`{CONFIG_KEY}:revisions` keeps the last hundred revisions; `lua/policy_commit.lua` describes its layout and
the compare-and-set. A direct write to the config key is foreign until `adopt` records it as a revision.
"""

import asyncio
import json
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from ratelimitd.errors import ConflictError, PolicyError, UnknownRevisionError
from ratelimitd.policy.text import DEFAULT_TEXT, parse, sha256_of
from ratelimitd.rollout.conflict import conflict_reason
from ratelimitd.rollout.revision import DEFAULTS, EXTERNAL, Revision, decoded
from ratelimitd.rollout.snapshot import (
    LostPolicy,
    PolicySnapshot,
    head_number,
    lost_key,
    read_snapshot,
    revisions_key,
    write_lost,
)
from ratelimitd.rollout.wrong_type import expecting
from ratelimitd.store.client import store_errors
from ratelimitd.store.script import Script
from ratelimitd.utf8 import encodable

KEPT = 100
"""Revisions kept. The script removes older ones."""

HISTORY_LENGTH = 20
"""Revisions of a history unless another number is requested: about one screen."""

_READ_AT_ONCE = 4
"""Revisions that `since` reads in a call. Each has up to a MiB of text, and mostly the newest is enough."""

RESET = b"reset"
"""The message that announces a reset of buckets."""


class Revisions:
    """The revisions of the policy at `config_key`. Every method raises StoreError when the store fails.

    No method has a deadline of its own.
    """

    def __init__(self, client: Redis, config_key: str) -> None:
        self.channel = f"{{{config_key}}}:changes"
        """Gets the number of each new revision, and RESET when buckets were reset."""
        self._client = client
        self._config_key = config_key
        self._key = revisions_key(config_key)
        self._script = Script(client, "lua/policy_commit.lua")

    async def snapshot(self) -> PolicySnapshot:
        """Reads the config key and the newest revision's number, in one round trip."""
        return await read_snapshot(self._client, self._config_key)

    async def text_at_config_key(self) -> bytes | str | None:
        """Returns the value of the config key without regard to the revisions, None if it is absent."""
        with store_errors():
            return await self._client.get(self._config_key)

    async def keep(self, lost: LostPolicy) -> None:
        """Writes the policy that the emptied store lost, for replicas that start and for operators."""
        await write_lost(self._client, self._config_key, lost)

    async def head(self) -> Revision:
        """Returns the newest revision; number 0, the default policy, when there is none."""
        return await self.get(await self._head())

    async def get(self, number: int) -> Revision:
        """Returns the revision of that number; 0 is the default policy. Raises UnknownRevisionError."""
        if number == 0:
            return DEFAULTS
        with store_errors(), expecting(self._key, "hash"):
            revision = decoded(await self._client.hget(self._key, str(number)))
        if revision is None:
            newest = await self._head()
            kept = f"{max(1, newest - KEPT + 1)} to {newest} are kept" if newest else "none was accepted yet"
            raise UnknownRevisionError(f"revision {number} does not exist; {kept} (policy history)")
        return revision

    async def newest(self, snapshot: PolicySnapshot) -> Revision:
        """Returns the newest revision of a snapshot that is not foreign.

        When its record is lost, only its number and the text at the config key are known.
        """
        if snapshot.lost is not None:
            return snapshot.lost.revision
        try:
            return await self.get(snapshot.head)
        except UnknownRevisionError:
            text = DEFAULT_TEXT if snapshot.value is None else snapshot.value.decode(errors="replace")
            return Revision(
                number=snapshot.head,
                sha256=sha256_of(text),
                at_us=0,
                author="",
                note="its record is lost",
                text=text,
            )

    async def last_good(self, lost: LostPolicy | None) -> Revision:
        """Returns the newest revision that can be read and parsed; the default policy when there is none.

        A revision may be damaged or lost, or use fields that only a later version of ratelimitd knows. `lost`
        is that of the snapshot.
        """
        if lost is not None:
            with suppress(PolicyError):
                await asyncio.to_thread(parse, lost.text)
                return lost.revision
        head = await self._head()
        for number in range(head, max(0, head - KEPT), -1):
            with suppress(UnknownRevisionError, PolicyError):
                revision = await self.get(number)
                await asyncio.to_thread(parse, revision.text)
                return revision
        return DEFAULTS

    async def history(self, limit: int = HISTORY_LENGTH) -> list[Revision]:
        """Returns the newest `limit` revisions that are kept, newest first."""
        head = await self._head()
        numbers = range(head, max(0, head - min(limit, KEPT)), -1)
        if not numbers:
            return []
        with store_errors(), expecting(self._key, "hash"):
            raws = await self._client.hmget(self._key, [str(number) for number in numbers])
        return [revision for raw in raws if (revision := decoded(raw)) is not None]

    async def since(self, at_us: int) -> list[Revision]:
        """Returns the revisions accepted at or after an instant that are kept, oldest first."""
        head, found = await self._head(), list[Revision]()
        for newest in range(head, max(0, head - KEPT), -_READ_AT_ONCE):
            numbers = range(newest, max(0, newest - _READ_AT_ONCE), -1)
            with store_errors(), expecting(self._key, "hash"):
                raws = await self._client.hmget(self._key, [str(number) for number in numbers])
            revisions = [revision for raw in raws if (revision := decoded(raw)) is not None]
            found += [revision for revision in revisions if revision.at_us >= at_us]
            if any(revision.at_us < at_us for revision in revisions):
                break
        return found[::-1]

    async def commit(self, text: str, *, author: str, note: str, expected: int, over: str) -> Revision:
        """Writes a text to the config key as a new revision, if nothing changed since it was read.

        Args:
            text: a valid policy; it is kept byte for byte. Raises ValueError if UTF-8 cannot encode it.
            author: the person who accepts it.
            note: the reason.
            expected: the number of the newest revision that the author knows.
            over: `PolicySnapshot.sha1` of the value that may be overwritten. A foreign value is then lost,
                so adopt it first if it is valid.

        Raises ConflictError; nothing was written then.
        """
        return await self._record(expected, over, author, note, text, text)

    async def adopt(self, snapshot: PolicySnapshot) -> Revision:
        """Records the foreign text or deletion in a snapshot, and returns the newest revision after that.

        Of several replicas one records it, and all return the same revision. Raises ValueError when the text
        is not UTF-8, and so not a policy, and ConflictError when the config key changed since the snapshot.
        """
        if snapshot.wrong_type:
            raise ValueError("a key that is not a string has no text to adopt")
        text, note = DEFAULT_TEXT, "the key was deleted"
        if snapshot.value is not None:
            text, note = snapshot.value.decode(), f"written to {self._config_key} directly"
        return await self._record(None, snapshot.sha1, EXTERNAL, note, text)

    async def announce_reset(self) -> None:
        """Announces a reset of buckets to every replica, which then drops its cached denials."""
        # Without the permission to publish, cached denials end within a second.
        with store_errors(), suppress(NoPermissionError):
            await self._client.publish(self.channel, RESET)

    async def _head(self) -> int:
        with store_errors(), expecting(self._key, "hash"):
            return head_number(self._config_key, await self._client.hget(self._key, "head"))

    async def _record(
        self, expected: int | None, over: str, author: str, note: str, text: str, *written: str
    ) -> Revision:
        content = {
            "sha256": sha256_of(text.encode()),
            "author": encodable(author),
            "note": encodable(note),
            "text": text,
        }
        rest = json.dumps(content, ensure_ascii=False, separators=(",", ":")).removeprefix("{")
        with store_errors(), expecting(self._key, "hash"):
            done, newest, raw = await self._script(
                [self._config_key, self._key, lost_key(self._config_key)],
                ["" if expected is None else expected, over, self.channel, rest, *written],
            )
        revision = decoded(raw)
        if not done:
            raise ConflictError(
                f"{self._config_key} changed again since it was read"
                if expected is None
                else conflict_reason(self._config_key, expected, newest, revision)
            )
        return await self.get(newest) if revision is None else revision
