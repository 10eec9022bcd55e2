"""Keeps the newest valid policy in force on one replica.

The last good policy stays in force whatever is written after it, while the store is unavailable, and across
a restart, since it is the newest revision. It also stays in force when the store is emptied. A valid policy
that was written directly to Redis becomes a revision.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
from redis.asyncio import Redis

from ratelimitd.bounded_log import BoundedLog, FailureLog
from ratelimitd.core.policy import PolicySet
from ratelimitd.core.ports import Policies
from ratelimitd.errors import ConflictError, PolicyError, StoreError, WrongTypeError
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.text import digest_of, parse
from ratelimitd.process.background import background
from ratelimitd.rollout.changes import RESUBSCRIBE_INTERVAL_S, Changes
from ratelimitd.rollout.loss import Loss, keeps_policy
from ratelimitd.rollout.presence import Presence
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.shadow_counts import ShadowCounts
from ratelimitd.rollout.snapshot import PolicySnapshot

POLL_INTERVAL_S = 1.0
"""A change that no message announces is in force on every replica after this time and a round trip."""

FIRST_POLL_INTERVAL_S = 0.1
"""Poll interval until a first policy was read: without one no request can be decided."""

READ_TIMEOUT_S = 1.0
"""A poll may take longer than a decision, since no request waits for it."""

UNREAD = ("", -1)


class PolicyFollower:
    """The policy at `key`, for one replica.

    Args:
        client: the store.
        key: the config key, which holds the policy's text.
        replica: the replica's entry before any policy runs.
        on_change: called after the first policy came into force and after each other one did.
        on_reset: called when a person reset buckets.
        unreadable_addresses: returns how many requests so far had no readable address header.
        poll_interval_s: the longest time between two polls, in seconds.
        resubscribe_interval_s: the pause before the next attempt to subscribe, in seconds.
    """

    def __init__(
        self,
        client: Redis,
        key: str,
        replica: Replica,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_reset: Callable[[], None] = lambda: None,
        unreadable_addresses: Callable[[], int] = lambda: 0,
        poll_interval_s: float = POLL_INTERVAL_S,
        resubscribe_interval_s: float = RESUBSCRIBE_INTERVAL_S,
    ) -> None:
        self._key = key
        self._revisions = Revisions(client, key)
        self._loss = Loss(self._revisions, key)
        self._presence = Presence(client, key, replica, unreadable_addresses)
        self._changes = Changes(client, self._revisions.channel, on_reset, resubscribe_interval_s)
        self._on_change = on_change
        self._poll_interval_s = poll_interval_s
        self._log = structlog.get_logger("ratelimitd.policy")
        self._bounded_log = BoundedLog("ratelimitd.policy")
        self._failure_log = FailureLog("ratelimitd.policy")
        self._current: PolicySet | None = None
        self._text = ""  # that of the policy in force
        self._read_last: tuple[str, int] = UNREAD

    def current(self) -> PolicySet:
        """Returns the policy in force. Raises StoreError until the store was read once."""
        if self._current is None:
            raise StoreError("no policy could be read from the store yet")
        return self._current

    def revision_of(self, digest: str) -> int | None:
        """Returns the number of the revision in force, 0 for the default policy.

        It is None if the policy in force has another digest.
        """
        replica = self._presence.replica
        return replica.number if replica.digest == digest else None

    @property
    def number(self) -> int:
        """Returns the revision of the policy in force; 0 for the default policy and before any policy."""
        return self._presence.replica.number

    @property
    def live_replicas(self) -> int:
        """Returns the number of live replicas, this one included."""
        return self._presence.live

    @property
    def shadow_counts(self) -> ShadowCounts:
        """The counts of what shadow would have denied. Each poll publishes them."""
        return self._presence.shadow

    async def poll(self) -> None:
        """Reads the policy, puts a new valid one in force, and publishes this replica's entry.

        Only changes are logged.
        """
        with self._logging_failures("policy_read_failed"):
            async with asyncio.timeout(READ_TIMEOUT_S):
                snapshot = await self._snapshot()
            keeps = keeps_policy(self._presence.replica, snapshot)
            if not keeps and (snapshot.sha1, snapshot.head) != self._read_last:
                await self._follow(snapshot)
                self._read_last = (snapshot.sha1, snapshot.head)
            self._loss.report(self._presence.replica, is_lost=keeps or snapshot.is_lost)
            # A failure to publish what only operators read must not keep a policy from coming into force.
            with self._logging_failures("replica_publish_failed"):
                async with asyncio.timeout(READ_TIMEOUT_S):
                    if keeps:
                        await self._loss.keep(self._presence.replica, self._text, snapshot.now_us)
                    await self._adopt(snapshot)
                    await self._presence.publish(snapshot.now_us)

    async def _snapshot(self) -> PolicySnapshot:
        """Reads the state of the policy. Raises StoreError.

        If the revisions cannot be read because their key has another type, a replica that starts runs the
        text at the config key, since without a policy it could decide nothing.
        """
        try:
            return await self._revisions.snapshot()
        except WrongTypeError:
            if self._current is None and (value := await self._revisions.text_at_config_key()) is not None:
                with suppress(PolicyError):
                    text, policy = await asyncio.to_thread(_compiled, value)
                    self._put_in_force(policy, text, 0)
            raise

    @contextmanager
    def _logging_failures(self, event: str) -> Iterator[None]:
        """Logs failures of the store instead of raising them."""
        try:
            yield
        except (StoreError, TimeoutError) as error:
            self._failure_log.warning(event, key=self._key, reason=str(error) or "no answer in time")
        else:
            self._failure_log.worked(event)

    async def _follow(self, snapshot: PolicySnapshot) -> None:
        try:
            text, policy = await asyncio.to_thread(_compiled, snapshot.text())
        except PolicyError as error:
            await self._refuse(snapshot, str(error))
            return
        self._put_in_force(policy, text, snapshot.head)
        self._presence.refuses(None)

    async def _adopt(self, snapshot: PolicySnapshot) -> None:
        """Records a foreign policy that is in force here as a revision."""
        if not snapshot.foreign or self._presence.replica.refused is not None:
            return
        try:
            adopted = await self._revisions.adopt(snapshot)
        except ConflictError:  # the key changed again: the next poll reads it
            return
        self._presence.runs(self.current().digest, adopted.number)
        self._log.info("policy_recorded", number=adopted.number, author=adopted.author)

    def _put_in_force(self, policy: PolicySet, text: str, number: int) -> None:
        self._presence.runs(policy.digest, number)
        self._text = text
        if self._current is not None and policy.digest == self._current.digest:
            return
        self._current = policy
        limits = {
            name.value: f"{rule.limit.capacity} at {rule.limit.refill_rate:g}/s"
            for name, rule in policy.tiers.items()
        }
        # `revision` is an alias of `digest`: log queries for earlier versions read it.
        digest = policy.digest
        self._log.info("policy_in_force", digest=digest, revision=digest, number=number, **limits)
        self._on_change()

    async def _refuse(self, snapshot: PolicySnapshot, reason: str) -> None:
        """Keeps the newest good revision in force beside an invalid text."""
        if self._current is None or snapshot.head != self._presence.replica.number:
            async with asyncio.timeout(READ_TIMEOUT_S):
                good = await self._revisions.last_good(snapshot.lost)
            if good.number != snapshot.head:
                self._bounded_log.error("revision_unreadable", number=snapshot.head, instead=good.number)
            # A replica that runs a policy keeps it rather than fall back to the default policy.
            if good.number or self._current is None:
                text, policy = await asyncio.to_thread(_compiled, good.text)
                self._put_in_force(policy, text, good.number)
        if reason != self._presence.replica.refused:
            digest = self.current().digest
            self._bounded_log.error("policy_refused", key=self._key, reason=reason, in_force=digest)
        self._presence.refuses(reason)

    async def _poll_always(self) -> None:
        while True:
            await self._changes.wait(self._poll_interval_s if self._current else FIRST_POLL_INTERVAL_S)
            try:
                await self.poll()
            except Exception:  # noqa: BLE001 - after a defect, later changes must still come into force
                self._bounded_log.exception("policy_poll_failed")

    @asynccontextmanager
    async def following(self) -> AsyncIterator["PolicyFollower"]:
        """Follows the store until the end of the block, which begins after the first poll."""
        await self.poll()
        try:
            async with background(self._poll_always(), self._changes.listen()):
                yield self
        finally:
            # A replica whose entry stays is not listed after some seconds either.
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(READ_TIMEOUT_S):
                    await self._presence.leave()


def _compiled(text: bytes | str) -> tuple[str, PolicySet]:
    """Compiles a policy: a quarter of a second for the longest text, so it runs in a thread."""
    policy = policy_set(parse(text), digest_of(text))
    return text if isinstance(text, str) else text.decode(), policy


_port: type[Policies] = PolicyFollower
