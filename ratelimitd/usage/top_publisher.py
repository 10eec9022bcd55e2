"""Publishes the summaries of top users of one replica.

A failure loses nothing but time: counts are kept, and a period goes on until it could be published. A replica
that stops publishes once more.
"""

import asyncio
import hashlib
import hmac
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from redis.asyncio import Redis

from ratelimitd.bounded_log import BoundedLog, FailureLog
from ratelimitd.core.identity import ANONYMOUS
from ratelimitd.core.model import MICRO
from ratelimitd.core.ports import Observer
from ratelimitd.errors import StoreError
from ratelimitd.process.background import background
from ratelimitd.usage.summary import Summary
from ratelimitd.usage.top_store import StoredPeriod, StoredSummary, TopStore
from ratelimitd.usage.user_counts import Period, UserCounts

INTERVAL_S = 5.0
"""The time between two publications. A replica that is killed loses the counts of this time."""

TIMEOUT_S = 1.0
"""How long one publication may take, so that a stop is not delayed longer."""

_HASHED = "hashed="

_HASHED_NAME = re.compile(_HASHED + "[0-9a-f]{16}")


def is_hashed(key: str) -> bool:
    """Returns whether a published key is a hash. No key of an identity looks like one."""
    return _HASHED_NAME.fullmatch(key) is not None


class TopUsersPublisher:
    """Publishes counts of users.

    Args:
        client: the store.
        config_key: the config key.
        replica_id: the id of this replica, which no other process has.
        mode: `hashed` publishes hashes in place of the keys of users and addresses.
        counts: the counts. They must also be an observer of the decisions.
    """

    def __init__(
        self,
        client: Redis,
        config_key: str,
        replica_id: str,
        mode: Literal["on", "hashed"],
        counts: UserCounts,
    ) -> None:
        self._counts = counts
        self._store = TopStore(client, config_key)
        self._replica_id = replica_id
        self._mode = mode
        self._ended: Period | None = None
        self._swept = False
        self._log = BoundedLog("ratelimitd.usage")
        self._failure_log = FailureLog("ratelimitd.usage")

    async def publish(self) -> None:
        """Publishes the current period, and a period that ended since the last time. Raises StoreError."""
        if self._ended is None:
            self._ended = self._counts.ended()
        periods = [self._counts.current()] if self._ended is None else [self._ended, self._counts.current()]
        name_of = await self._names()
        now_us = await self._store.now_us()
        stored = {period.number: self._stored(period, now_us, name_of) for period in periods}
        await self._store.write(self._replica_id, stored)
        if self._ended is not None or not self._swept:
            await self._store.sweep()
        self._ended, self._swept = None, True

    async def _names(self) -> Callable[[str], str]:
        """Returns the function from a key to its published name. Raises StoreError."""
        if self._mode == "on":
            return lambda key: key
        salt = await self._store.salt()
        return lambda key: key if key == ANONYMOUS.key else _HASHED + _digest(salt, key)

    def _stored(self, period: Period, now_us: int, name_of: Callable[[str], str]) -> StoredPeriod:
        def named(summary: Summary) -> StoredSummary:
            counts = {name_of(key): count for key, count in summary.counts.items()}
            return StoredSummary.of(Summary(summary.total, summary.floor, counts))

        return StoredPeriod(
            mode=self._mode,
            began_us=max(0, now_us - round((self._counts.now_s() - period.began_s) * MICRO)),
            all=named(period.all),
            denied=named(period.denied),
        )

    async def _publish_or_log(self) -> None:
        """Publishes, or logs why it failed."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self.publish()
            self._failure_log.worked("top_users_publish_failed")
        except (StoreError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            self._failure_log.warning("top_users_publish_failed", reason=reason)
        except Exception:  # noqa: BLE001 - a defect here must not end the task, nor keep the service from stopping
            self._log.exception("top_users_publish_defect")

    async def _publish_always(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self._publish_or_log()

    @asynccontextmanager
    async def publishing(self) -> AsyncIterator[None]:
        """Publishes until the end of the block, and once more then."""
        try:
            async with background(self._publish_always()):
                yield
        finally:
            await self._publish_or_log()


@asynccontextmanager
async def counting_users(
    client: Redis, config_key: str, replica_id: str, mode: Literal["on", "hashed", "off"]
) -> AsyncIterator[Sequence[Observer]]:
    """Yields the observers that count users, none if `mode` is `off`, and publishes their counts."""
    if mode == "off":
        yield ()
        return
    counts = UserCounts(time.monotonic)
    async with TopUsersPublisher(client, config_key, replica_id, mode, counts).publishing():
        yield (counts,)


def _digest(salt: bytes, key: str) -> str:
    """Returns 64 bits of a keyed SHA-256, in hex."""
    return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()[:16]
