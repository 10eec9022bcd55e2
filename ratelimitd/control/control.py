"""The control of limits: every change is validated, is a revision, and is told to all replicas.

Nothing here takes a token. What is decided is read from the store at the call, so any number of these may
work side by side.
"""

import asyncio
import difflib
import time
from contextlib import suppress

from redis.asyncio import Redis

from ratelimitd.control.answers import (
    AppliedRevision,
    BucketState,
    CurrentPolicy,
    ExplainedRequest,
    ReplicaStatus,
    Status,
)
from ratelimitd.control.request_spec import RequestSpec, Subject, identity_of
from ratelimitd.core.bucket import refill
from ratelimitd.core.explain import explain, keys_of
from ratelimitd.core.keys import parse_key
from ratelimitd.core.match import limit_for
from ratelimitd.core.policy import PolicySet
from ratelimitd.errors import ConflictError, PolicyError, WaitError
from ratelimitd.policy.advice import advice
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import digest_of, parse
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revision import PolicySnapshot, Revision
from ratelimitd.rollout.revisions import HISTORY_LENGTH, Revisions
from ratelimitd.settings import Settings
from ratelimitd.store.buckets import Buckets

ATTEMPTS = 3
"""How often a change that expects no number is tried when others change the policy at the same time."""

LOOK_AGAIN_S = 0.05
"""Between two looks at the replicas while somebody waits for them."""


class Control:
    """Everything that an operator can do, over one store. Every method that asks it may raise StoreError.

    Args:
        client: the store.
        settings: those of the service: its keys, and how it identifies.
    """

    def __init__(self, client: Redis, settings: Settings) -> None:
        self._settings = settings
        self._revisions = Revisions(client, settings.config_key)
        self._replicas = Replicas(client, settings.config_key)
        self._buckets = Buckets(client, settings.key_prefix)

    async def current(self) -> CurrentPolicy:
        """The newest accepted policy. A good one written past the revisions is recorded first."""
        current, _ = await self._current()
        return current

    async def _current(self) -> tuple[CurrentPolicy, PolicySnapshot]:
        while True:
            look = await self._revisions.snapshot()
            if not look.foreign:
                return CurrentPolicy(revision=await self._revisions.newest(look), refused=()), look
            try:
                parse(look.text())
            except PolicyError as error:
                revision = await self._revisions.last_good()
                return CurrentPolicy(revision=revision, refused=error.problems), look
            with suppress(ConflictError):  # it was changed again meanwhile
                await self._revisions.adopt(look)

    async def apply(self, text: str, *, author: str, note: str, expected: int | None) -> AppliedRevision:
        """Makes a text the policy in force.

        Raises PolicyError, and ConflictError when the newest revision is not `expected`. With None whatever
        is the newest is replaced.
        """
        advised = advice(parse(text))
        for attempt in range(ATTEMPTS):
            _, look = await self._current()
            number = look.head if expected is None else expected
            try:
                revision = await self._revisions.commit(
                    text, author=author, note=note, expected=number, over=look.sha1
                )
            except ConflictError:
                if expected is not None or attempt == ATTEMPTS - 1:
                    raise
            else:
                return AppliedRevision(revision=revision, advice=advised)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def diff(self, text: str, against: int | None = None) -> str:
        """A unified diff from a revision, the newest when None, to `text`, both in normal form.

        It is empty when they mean the same. Raises PolicyError and UnknownRevisionError.
        """
        new = normal_text(parse(text)).splitlines(keepends=True)
        old = (await self.current()).revision if against is None else await self.revision(against)
        before = normal_text(parse(old.text)).splitlines(keepends=True)
        return "".join(difflib.unified_diff(before, new, f"revision {old.number}", "new"))

    async def history(self, limit: int = HISTORY_LENGTH) -> list[Revision]:
        """The newest revisions, newest first."""
        await self.current()
        return await self._revisions.history(limit)

    async def revision(self, number: int) -> Revision:
        """One revision. Raises UnknownRevisionError."""
        return await self._revisions.get(number)

    async def rollback(self, to: int, *, author: str, note: str, expected: int | None) -> Revision:
        """Makes the text of an earlier revision a new one. Raises UnknownRevisionError and ConflictError."""
        text = (await self.revision(to)).text
        applied = await self.apply(text, author=author, note=note or f"rollback to {to}", expected=expected)
        return applied.revision

    async def status(self) -> Status:
        """The newest policy, and which replica runs which."""
        current, look = await self._current()
        newest = current.revision.number
        live = await self._replicas.live(look.now_us)
        return Status(
            revision=current.revision,
            refused=current.refused,
            replicas=[ReplicaStatus.of(replica, newest) for replica in live],
            shadow=await self._replicas.shadow(newest),
            now_us=look.now_us,
        )

    async def wait(self, number: int, timeout_s: float) -> Status:
        """The status, once every live replica runs this revision or a newer one. Raises WaitError."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            status = await self.status()
            behind = [replica.id for replica in status.replicas if replica.number < number]
            if not behind:
                return status
            if time.monotonic() >= deadline_s:
                raise WaitError(
                    f"after {timeout_s:g} s revision {number} does not run yet on {', '.join(behind)}"
                )
            await asyncio.sleep(LOOK_AGAIN_S)

    async def explain(self, question: RequestSpec) -> ExplainedRequest:
        """What such a request would get now, and why. Raises RequestSpecError."""
        request = question.request(self._settings)
        identity = identity_of(request, self._settings)
        policy = await self._policy()
        keys = keys_of(policy, request, identity, self._settings.key_prefix)
        stored = await self._buckets.read(keys)
        return ExplainedRequest.of(
            explain(policy, request, identity, self._settings.key_prefix, stored.buckets, stored.now_us)
        )

    async def buckets(self, who: Subject) -> list[BucketState]:
        """The buckets that somebody has: those that are not full. Raises RequestSpecError."""
        identity = who.identity()
        policy = await self._policy()
        keys = await self._buckets.keys_of(identity.key)
        stored = await self._buckets.read(keys)
        states = []
        for key, bucket in stored.buckets.items():
            named = parse_key(key, self._settings.key_prefix)
            if named is None:
                continue
            limit = limit_for(policy, named.tier, identity, named.api)
            now = bucket if limit is None else refill(bucket, limit, stored.now_us)
            states.append(
                BucketState(
                    key=key,
                    tier=named.tier,
                    api=named.api,
                    shadow=named.shadow,
                    tokens=now.tokens,
                    capacity=None if limit is None else limit.capacity,
                    refill_rate=None if limit is None else limit.refill_rate,
                    last_us=bucket.last,
                )
            )
        return states

    async def reset(self, who: Subject) -> list[str]:
        """Makes every bucket of somebody a full one. The keys that were deleted. Raises RequestSpecError."""
        keys = await self._buckets.keys_of(who.identity().key)
        await self._buckets.delete(keys)
        await self._revisions.announce_reset()
        return keys

    async def _policy(self) -> PolicySet:
        text = (await self.current()).revision.text
        return policy_set(parse(text), digest_of(text))
