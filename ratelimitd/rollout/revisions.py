"""Every accepted policy is a numbered revision in Redis. Of two changes made at once, one wins, one is told.

The text in force stands at the key C, where redis-cli can read and write it. Beside it, `{C}:revisions` keeps
the last hundred; its layout and the compare-and-set are in `lua/policy_commit.lua`. What somebody writes at C
past this module is foreign until it is adopted. No text is parsed here: callers know which ones are valid.
"""

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.core.model import MICRO
from ratelimitd.errors import ConflictError, StoreError, UnknownRevisionError
from ratelimitd.policy.text import DEFAULT_TEXT, sha256_of
from ratelimitd.resources import resource
from ratelimitd.rollout.revision import DEFAULTS, WRONG_TYPE, PolicySnapshot, Revision, decoded, sha1_of
from ratelimitd.store.client import store_errors
from ratelimitd.utf8 import encodable

KEPT = 100
"""Revisions kept; the script removes older ones."""

HISTORY_LENGTH = 20
"""Revisions of a history unless another number is asked for: about one screen."""

EXTERNAL = "external"
"""The author of what was written or deleted past ratelimitd."""

MAX_AUTHOR = 100
"""Characters of a person's name. Whoever is told of a revision is told the name."""

MAX_NOTE = 500
"""Characters of a note."""

RESET = b"reset"
"""The message that tells replicas of a reset of buckets."""


def checked_author(name: str) -> str:
    """The name, if a person may have it. Raises ValueError."""
    if not 1 <= len(name) <= MAX_AUTHOR:
        raise ValueError(f"must have 1 to {MAX_AUTHOR} characters")
    if name.strip().casefold() == EXTERNAL:
        raise ValueError(f"must be another: {EXTERNAL} is who writes past ratelimitd")
    return name


def checked_note(note: str) -> str:
    """The note, if it is one. Raises ValueError."""
    if len(note) > MAX_NOTE:
        raise ValueError(f"must have at most {MAX_NOTE} characters")
    return note


class Revisions:
    """The revisions of the policy at `config_key`. Every method raises StoreError when the store fails.

    None has a deadline of its own.
    """

    def __init__(self, client: Redis, config_key: str) -> None:
        self.channel = f"{{{config_key}}}:changes"
        """Told the number of each new revision, and `reset` when buckets were."""
        self._client = client
        self._config_key = config_key
        self._key = f"{{{config_key}}}:revisions"
        self._script = client.register_script(resource("lua/policy_commit.lua").read_text())

    async def snapshot(self) -> PolicySnapshot:
        """What stands at C, in one round trip."""
        with store_errors():
            # A transaction: a commit between the two reads would look like a foreign write.
            pipeline = self._client.pipeline(transaction=True)
            pipeline.get(self._config_key)
            pipeline.hmget(self._key, "head", "stored")
            pipeline.time()
            value, kept, now = await pipeline.execute(raise_on_error=False)
            wrong_type = isinstance(value, ResponseError) and str(value).startswith(WRONG_TYPE)
            for reply in (None if wrong_type else value, kept, now):
                if isinstance(reply, Exception):
                    raise reply
        return PolicySnapshot(
            value=None if wrong_type else value,
            wrong_type=wrong_type,
            sha1=WRONG_TYPE if wrong_type else sha1_of(value),
            head=self._number(kept[0]),
            stored=(kept[1] or b"").decode(errors="replace"),
            now_us=now[0] * MICRO + now[1],
        )

    async def head(self) -> Revision:
        """The newest revision; number 0 with the defaults when there is none."""
        return await self.get(await self._head())

    async def get(self, number: int) -> Revision:
        """The revision of that number; 0 is the defaults. Raises UnknownRevisionError."""
        if number == 0:
            return DEFAULTS
        with store_errors():
            revision = decoded(await self._client.hget(self._key, str(number)))
        if revision is None:
            newest = await self._head()
            kept = f"kept are {max(1, newest - KEPT + 1)} to {newest}" if newest else "none was accepted yet"
            raise UnknownRevisionError(f"there is no revision {number}: {kept} (policy history)")
        return revision

    async def newest(self, look: PolicySnapshot) -> Revision:
        """The newest revision, whose text `look` found at C: all that is known when its record is lost."""
        try:
            return await self.get(look.head)
        except UnknownRevisionError:
            text = DEFAULT_TEXT if look.value is None else look.value.decode(errors="replace")
            return Revision(
                number=look.head,
                sha256=sha256_of(text),
                at_us=0,
                author="",
                note="its record is lost",
                text=text,
            )

    async def newest_first(self) -> AsyncIterator[Revision]:
        """Every revision that is kept, newest first; the defaults come last."""
        head = await self._head()
        for number in range(head, max(0, head - KEPT), -1):
            with suppress(UnknownRevisionError):
                yield await self.get(number)
        yield DEFAULTS

    async def history(self, limit: int = HISTORY_LENGTH) -> list[Revision]:
        """The newest `limit` revisions that are kept, newest first."""
        head = await self._head()
        numbers = range(head, max(0, head - min(limit, KEPT)), -1)
        if not numbers:
            return []
        with store_errors():
            raws = await self._client.hmget(self._key, [str(number) for number in numbers])
        return [revision for raw in raws if (revision := decoded(raw)) is not None]

    async def commit(self, text: str, *, author: str, note: str, expected: int, over: str) -> Revision:
        """Writes `text` at C as a new revision, if `expected` is the newest one and C still as it was seen.

        Args:
            text: a valid policy; it is kept byte for byte. UTF-8 must be able to hold it (else ValueError).
            author: who accepts it.
            note: why.
            expected: the number of the newest revision that the author knows.
            over: `PolicySnapshot.sha1` of what may be overwritten. A foreign value is then lost, so adopt a
                valid one first.

        Raises ConflictError, and has then written nothing.
        """
        return await self._record(expected, over, author, note, text, text)

    async def adopt(self, look: PolicySnapshot) -> Revision:
        """Records the foreign text, or the deletion, that `look` found; gives the newest revision after that.

        Of several replicas one records it, and all get the same. The text must be UTF-8 (else ValueError:
        other bytes are no policy). Raises ConflictError when C was changed since `look`.
        """
        if look.wrong_type:
            raise ValueError("a key that is no string has no text to adopt")
        text, note = DEFAULT_TEXT, "the key was deleted"
        if look.value is not None:
            text, note = look.value.decode(), f"written to {self._config_key} directly"
        return await self._record(None, look.sha1, EXTERNAL, note, text)

    async def announce_reset(self) -> None:
        """Tells every replica that buckets were reset, so that it forgets the denials it remembers."""
        with store_errors():
            await self._client.publish(self.channel, RESET)

    async def _head(self) -> int:
        with store_errors():
            return self._number(await self._client.hget(self._key, "head"))

    def _number(self, raw: bytes | str | None) -> int:
        try:
            return int(raw or 0)
        except ValueError as error:
            raise StoreError(
                f"the field head of {self._key} must be a whole number, got {raw!r:.60}"
            ) from error

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
        with store_errors():
            done, newest, raw = await self._script(
                [self._config_key, self._key],
                ["" if expected is None else expected, over, self.channel, rest, *written],
            )
        revision = decoded(raw)
        if not done:
            raise ConflictError(self._conflict(expected, newest, revision))
        return await self.get(newest) if revision is None else revision

    def _conflict(self, expected: int | None, newest: int, revision: Revision | None) -> str:
        if expected is None:
            return f"{self._config_key} was changed again since it was looked at; look again"
        who, when = f"revision {newest}", ""
        if revision is not None:
            instant = datetime.fromtimestamp(revision.at_us // MICRO, UTC)
            who, when = f"{who} by {revision.author}", f", at {instant:%Y-%m-%dT%H:%M:%SZ}"
        if newest > expected:
            what = f"{who} was accepted meanwhile{when}"
        elif newest == expected:
            what = f"{self._config_key} was changed directly since you looked, on top of {who}{when}"
        else:
            what = f"revision {expected} is gone, the newest is {who}{when}"
        return f"{what}; look at it (policy diff), then apply again"
