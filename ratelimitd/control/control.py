"""The operations that the command line and the admin service share.

Every change of the policy is validated, recorded as a revision and announced to all replicas. No operation
takes a token. All state is in the store, so any number of these objects may work at the same time.
"""

import difflib

from redis.asyncio import Redis

from ratelimitd.control.answers import (
    AppliedRevision,
    BucketState,
    CurrentPolicy,
    ExplainedRequest,
    Status,
)
from ratelimitd.control.bucket_states import bucket_states
from ratelimitd.control.current import ATTEMPTS, current_policy, snapshot_to_replace
from ratelimitd.control.replica_wait import wait_for_replicas
from ratelimitd.control.request_spec import RequestSpec, Subject, identity_of
from ratelimitd.control.status import read_status
from ratelimitd.control.top_users import MOST, read_top_users
from ratelimitd.control.usage import read_cumulative, read_usage
from ratelimitd.control.usage_answers import DecisionTotals, TopUsers, Usage
from ratelimitd.core.explain import explain, keys_of
from ratelimitd.core.policy import PolicySet
from ratelimitd.errors import ConflictError, NothingLostError, UnknownRevisionError
from ratelimitd.policy.advice import advice
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import digest_of, parse
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revision import Revision
from ratelimitd.rollout.revisions import HISTORY_LENGTH, Revisions
from ratelimitd.settings import Settings
from ratelimitd.store.buckets import Buckets, layout_of
from ratelimitd.usage.ranges import UsageRange
from ratelimitd.usage.series import SeriesReader


class Control:
    """The operations on one store. Every method may raise StoreError.

    Args:
        client: the store.
        settings: the settings of the service: its keys, and how it identifies requests.
    """

    def __init__(self, client: Redis, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._layout = layout_of(client, settings.key_prefix)
        self._revisions = Revisions(client, settings.config_key)
        self._replicas = Replicas(client, settings.config_key)
        self._buckets = Buckets(client, self._layout)
        self._series = SeriesReader(client, settings.config_key)

    async def current(self) -> CurrentPolicy:
        """Returns the policy in force. A direct write that no revision records stays unrecorded."""
        return await current_policy(self._revisions, await self._revisions.snapshot())

    async def apply(self, text: str, *, author: str, note: str, expected: Expected | None) -> AppliedRevision:
        """Makes a text the policy in force. A valid text that was written directly is recorded first.

        Raises PolicyError, and ConflictError when the newest revision is not `expected`. None replaces any
        revision.
        """
        advised = advice(parse(text))
        for attempt in range(ATTEMPTS):
            snapshot = await snapshot_to_replace(self._revisions, self._settings.config_key, expected)
            number = snapshot.head if expected is None else expected.number
            try:
                revision = await self._revisions.commit(
                    text, author=author, note=note, expected=number, over=snapshot.sha1
                )
            except ConflictError:
                if expected is not None or attempt == ATTEMPTS - 1:
                    raise
            else:
                return AppliedRevision(revision=revision, advice=advised)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def restore(self, *, author: str, note: str, expected: Expected | None) -> AppliedRevision:
        """Writes the policy that an emptied store lost, and that the replicas run, as a new revision.

        Raises NothingLostError, ConflictError, and PolicyError when a later version wrote the policy.
        """
        lost = (await self._revisions.snapshot()).lost
        if lost is None:
            raise NothingLostError(
                "there is nothing to restore: the store holds its policy and its revisions"
            )
        return await self.apply(
            lost.text,
            author=author,
            note=note or "restored after the store was emptied",
            expected=expected or Expected.of(lost.revision),
        )

    async def diff(self, text: str, against: int | None = None) -> str:
        """Returns a unified diff from a revision, the newest when None, to a text, both in normal form.

        It is empty when they mean the same. Raises PolicyError and UnknownRevisionError.
        """
        new = normal_text(parse(text)).splitlines(keepends=True)
        old = (await self.current()).revision if against is None else await self.revision(against)
        before = normal_text(parse(old.text)).splitlines(keepends=True)
        return "".join(difflib.unified_diff(before, new, f"revision {old.number}", "new"))

    async def history(self, limit: int = HISTORY_LENGTH) -> list[Revision]:
        """Returns the newest revisions, newest first. A policy in force without a revision is the first."""
        current = await self.current()
        recorded = await self._revisions.history(limit)
        return recorded if current.recorded else [current.revision, *recorded][:limit]

    async def revision(self, number: int) -> Revision:
        """Returns a revision, or the policy in force without one. Raises UnknownRevisionError."""
        try:
            return await self._revisions.get(number)
        except UnknownRevisionError:
            current = (await self.current()).revision
            if current.number != number:
                raise
            return current

    async def rollback(self, to: int, *, author: str, note: str, expected: Expected | None) -> Revision:
        """Makes the text of an earlier revision a new one. Raises UnknownRevisionError and ConflictError."""
        text = (await self.revision(to)).text
        applied = await self.apply(text, author=author, note=note or f"rollback to {to}", expected=expected)
        return applied.revision

    async def status(self) -> Status:
        """Returns the newest policy and the policies that replicas run."""
        snapshot = await self._revisions.snapshot()
        current = await current_policy(self._revisions, snapshot)
        return await read_status(self._client, self._replicas, current, snapshot.now_us)

    async def wait(self, number: int, timeout_s: float) -> Status:
        """Returns the status once every listed replica runs this revision or a newer one.

        Raises WaitError, and StoreError if the store fails or does not answer: the revision is accepted then.
        """
        return await wait_for_replicas(self.status, number, timeout_s)

    async def top_users(self, *, denied: bool, most: int = MOST) -> TopUsers:
        """Returns the users with the most requests, or with the most denied ones, on all replicas."""
        key = self._settings.config_key
        return await read_top_users(self._client, key, self._replicas, denied=denied, most=most)

    async def explain(self, spec: RequestSpec) -> ExplainedRequest:
        """Returns the decision that such a request would get now. Raises RequestSpecError."""
        request = spec.request(self._settings)
        identity = identity_of(spec, request, self._settings)
        policy = await self._policy()
        keys = keys_of(policy, request, identity, self._layout)
        stored = await self._buckets.read(keys)
        return ExplainedRequest.of(
            explain(policy, request, identity, self._layout, stored.buckets, stored.now_us),
            stored.not_buckets,
        )

    async def buckets(self, subject: Subject) -> list[BucketState]:
        """Returns the buckets of a subject. One that is not listed is full. Raises RequestSpecError."""
        identity = subject.identity()
        policy = await self._policy()
        keys = await self._buckets.keys_of(identity.key)
        stored = await self._buckets.read(keys)
        return bucket_states(stored, policy, identity, self._layout)

    async def reset(self, subject: Subject) -> list[str]:
        """Makes every bucket of a subject full. Returns the keys deleted. Raises RequestSpecError."""
        keys = await self._buckets.keys_of(subject.identity().key)
        await self._buckets.delete(keys)
        await self._revisions.announce_reset()
        return keys

    async def usage(self, over: UsageRange) -> Usage:
        """Returns the decisions of all replicas in a range that ends now."""
        return await read_usage(self._client, self._series, self._revisions, over)

    async def cumulative_usage(self) -> DecisionTotals | None:
        """Returns the decisions of all replicas since the store was set up; None if some cannot be read."""
        return await read_cumulative(self._series)

    async def _policy(self) -> PolicySet:
        text = (await self.current()).revision.text
        return policy_set(parse(text), digest_of(text))
