"""Reads the policy from Redis at the start and every second, off the path of requests.

The last good policy stays in force whatever is written after it, and while the store is away.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.core.model import PolicySet
from ratelimitd.core.ports import Policies
from ratelimitd.errors import PolicyError, StoreError
from ratelimitd.policy.seed import DEFAULT, parse, policy_set
from ratelimitd.store.client import store_errors

POLL_INTERVAL_S = 1.0
"""A change is in force everywhere within this time and a round trip."""

FIRST_POLL_INTERVAL_S = 0.1
"""While none was read yet nothing can be decided, so the store is asked more often."""

READ_TIMEOUT_S = 1.0
"""A poll may take longer than a decision: nobody waits for it."""


class RedisPolicies:
    """The policy at `key`.

    Args:
        client: the store.
        key: where operators write the policy, as JSON text.
        on_change: called when a policy came into force, the first or one of another revision; `current()`
            gives it by then.
    """

    def __init__(self, client: Redis, key: str, on_change: Callable[[], None] = lambda: None) -> None:
        self._client = client
        self._key = key
        self._on_change = on_change
        self._log = structlog.get_logger("ratelimitd.policy")
        self._current: PolicySet | None = None
        self._refused: str | None = None
        self._away = False

    def current(self) -> PolicySet:
        """The policy in force. Raises StoreError until the store could be read once."""
        if self._current is None:
            raise StoreError("no policy could be read from the store yet")
        return self._current

    async def poll(self) -> None:
        """Reads the policy once and puts it in force if it is good; logs what changed, and only that."""
        try:
            self._accept(await self._read())
        except PolicyError as error:
            self._refuse(str(error))
        except StoreError as error:
            if not self._away:
                self._log.warning("policy_unread", key=self._key, reason=str(error))
            self._away = True
        else:
            self._refused = None

    async def _read(self) -> PolicySet:
        with store_errors():
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    text = await self._client.get(self._key)
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    raise PolicyError("it must be a string of JSON; the key holds another type") from error
                raise
        return policy_set(DEFAULT if text is None else parse(text))

    def _accept(self, policy: PolicySet) -> None:
        self._away = False
        if self._current is None or policy.revision != self._current.revision:
            self._current = policy
            limits = {
                name.value: f"{limit.capacity} at {limit.refill_rate:g}/s"
                for name, limit in policy.limits.items()
            }
            self._log.info("policy_in_force", revision=policy.revision, **limits)
            self._on_change()

    def _refuse(self, reason: str) -> None:
        self._away = False
        if self._current is None:
            self._accept(policy_set(DEFAULT))
        if reason != self._refused:
            self._refused = reason
            self._log.error("policy_refused", key=self._key, reason=reason, in_force=self.current().revision)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator["RedisPolicies"]:
        """Polls until the end of the block; the first poll is done when it begins."""

        async def poll_forever() -> None:
            while True:
                await asyncio.sleep(POLL_INTERVAL_S if self._current else FIRST_POLL_INTERVAL_S)
                try:
                    await self.poll()
                except Exception:  # noqa: BLE001 - a defect must not freeze the limits for ever
                    self._log.exception("policy_poll_broke")

        await self.poll()
        task = asyncio.create_task(poll_forever())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


_port: type[Policies] = RedisPolicies
