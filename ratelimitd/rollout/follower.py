"""Keeps the newest valid policy in force: told of a change at once, and looking for one every second.

The last good policy stays whatever is written after it, while the store is away, and across a restart: it is
the newest revision. What somebody wrote past the revisions, with redis-cli, is made one if it is valid.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog
from redis.asyncio import Redis

from ratelimitd.core.policy import PolicySet
from ratelimitd.core.ports import Policies
from ratelimitd.errors import ConflictError, PolicyError, StoreError
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.text import digest_of, parse
from ratelimitd.rollout.last_good import last_good
from ratelimitd.rollout.presence import Presence
from ratelimitd.rollout.replicas import Replica
from ratelimitd.rollout.revision import PolicySnapshot
from ratelimitd.rollout.revisions import RESET, Revisions
from ratelimitd.rollout.shadow_counts import ShadowCounts
from ratelimitd.store.client import store_errors

POLL_INTERVAL_S = 1.0
"""What no message told is in force everywhere within this time and a round trip."""

FIRST_POLL_INTERVAL_S = 0.1
"""While none was read yet nothing can be decided, so the store is asked more often."""

READ_TIMEOUT_S = 1.0
"""A poll may take longer than a decision: nobody waits for it."""

CANCEL_AGAIN_S = 0.05
"""How long a task may take to end before it is cancelled again."""

NEVER = -1
"""The number of a look that was not had yet."""


class PolicyFollower:
    """The policy at `key`, for one replica.

    Args:
        client: the store.
        key: where the policy's text stands.
        replica: what this replica tells of itself beside the revision that it runs.
        on_change: called when a policy came into force, the first or one of another revision; `current()`
            gives it by then.
        on_reset: called when buckets were reset by a person.
    """

    def __init__(
        self,
        client: Redis,
        key: str,
        replica: Replica,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_reset: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._key = key
        self._revisions = Revisions(client, key)
        self._presence = Presence(client, key, replica)
        self._on_change = on_change
        self._on_reset = on_reset
        self._log = structlog.get_logger("ratelimitd.policy")
        self._current: PolicySet | None = None
        self._seen: tuple[str, int] = ("", NEVER)
        self._failing: set[str] = set()
        self._told = asyncio.Event()

    def current(self) -> PolicySet:
        """The policy in force. Raises StoreError until the store could be read once."""
        if self._current is None:
            raise StoreError("no policy could be read from the store yet")
        return self._current

    @property
    def shadow_counts(self) -> ShadowCounts:
        """Counts what shadow would have denied. Each poll publishes the counts."""
        return self._presence.shadow

    async def poll(self) -> None:
        """Looks once, puts a good policy in force and tells what this replica runs; logs changes only."""
        with self._failing_quietly("policy_unread"):
            async with asyncio.timeout(READ_TIMEOUT_S):
                look = await self._revisions.snapshot()
            if (look.sha1, look.head) != self._seen:
                await self._read(look)
                self._seen = (look.sha1, look.head)
            # What is in force must not hang on what only people want to know.
            with self._failing_quietly("replica_untold"):
                async with asyncio.timeout(READ_TIMEOUT_S):
                    await self._record(look)
                    await self._presence.publish(look.now_us)

    @contextmanager
    def _failing_quietly(self, event: str) -> Iterator[None]:
        """One line when the store begins to fail, however long that lasts."""
        try:
            yield
        except (StoreError, TimeoutError) as error:
            if event not in self._failing:
                self._log.warning(event, key=self._key, reason=str(error) or "no answer in time")
            self._failing.add(event)
        else:
            self._failing.discard(event)

    async def _read(self, look: PolicySnapshot) -> None:
        try:
            policy = await asyncio.to_thread(_compiled, look.text())
        except PolicyError as error:
            await self._refuse(look, str(error))
            return
        self._accept(policy, look.head)
        self._presence.refuses(None)

    async def _record(self, look: PolicySnapshot) -> None:
        """Makes a revision of what is in force here and was written past them."""
        if not look.foreign or self._presence.replica.refused is not None:
            return
        try:
            adopted = await self._revisions.adopt(look)
        except ConflictError:  # it was changed again: the next look sees how
            return
        self._presence.runs(self.current().digest, adopted.number)
        self._log.info("policy_recorded", number=adopted.number, author=adopted.author)

    def _accept(self, policy: PolicySet, number: int) -> None:
        self._presence.runs(policy.digest, number)
        if self._current is not None and policy.digest == self._current.digest:
            return
        self._current = policy
        limits = {
            name.value: f"{rule.limit.capacity} at {rule.limit.refill_rate:g}/s"
            for name, rule in policy.tiers.items()
        }
        self._log.info("policy_in_force", revision=policy.digest, number=number, **limits)
        self._on_change()

    async def _refuse(self, look: PolicySnapshot, reason: str) -> None:
        """A bad text changes nothing: the newest revision that can be read is in force."""
        if self._current is None or look.head != self._presence.replica.number:
            async with asyncio.timeout(READ_TIMEOUT_S):
                good = await last_good(self._revisions)
            if good.number != look.head:
                self._log.error("revision_unread", number=look.head, instead=good.number)
            # Whoever runs a policy knows better than the defaults.
            if good.number or self._current is None:
                self._accept(await asyncio.to_thread(_compiled, good.text), good.number)
        if reason != self._presence.replica.refused:
            self._log.error("policy_refused", key=self._key, reason=reason, in_force=self.current().digest)
        self._presence.refuses(reason)

    async def _listen(self) -> None:
        """Wakes the poll when the store tells of a change."""
        while True:
            try:
                with store_errors():
                    async with self._client.pubsub() as pubsub:
                        await pubsub.subscribe(self._revisions.channel)
                        async for message in pubsub.listen():
                            self._hear(message)
            except StoreError:
                pass  # the poll logs that the store is away
            except Exception:  # noqa: BLE001 - a defect must not make every change a second late for ever
                self._log.exception("policy_listen_broke")
            await asyncio.sleep(POLL_INTERVAL_S)

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] == "message" and message["data"] == RESET:
            self._on_reset()
        else:  # a change, or that this is subscribed, before which one may have been missed
            self._told.set()

    async def _poll_forever(self) -> None:
        while True:
            interval_s = POLL_INTERVAL_S if self._current else FIRST_POLL_INTERVAL_S
            try:
                async with asyncio.timeout(interval_s):
                    await self._told.wait()
            except TimeoutError:
                pass
            self._told.clear()
            try:
                await self.poll()
            except Exception:  # noqa: BLE001 - a defect must not freeze the limits for ever
                self._log.exception("policy_poll_broke")

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["PolicyFollower"]:
        """Follows the store until the end of the block; the first poll is done when it begins."""
        await self.poll()
        tasks = [asyncio.create_task(self._poll_forever()), asyncio.create_task(self._listen())]
        try:
            yield self
        finally:
            await _cancel(tasks)
            await self._leave()

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                await self._presence.leave()
        except (StoreError, TimeoutError):
            pass  # it is not seen any more all the same


def _compiled(text: bytes | str) -> PolicySet:
    """Takes a quarter of a second for the longest texts, so a thread does it, while decisions go on."""
    return policy_set(parse(text), digest_of(text))


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels until it is heard: redis-py uses asyncio.wait_for, which may swallow it before Python 3.12."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)


_port: type[Policies] = PolicyFollower
