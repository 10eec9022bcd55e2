"""The entry that a replica publishes about itself: its policy, what it refuses, and its shadow counts."""

from collections import Counter
from collections.abc import Callable

from redis.asyncio import Redis

from ratelimitd.core.model import MICRO
from ratelimitd.rollout.replicas import SILENT_S, Replica, Replicas
from ratelimitd.rollout.shadow_counts import ShadowCounts

COUNTED_PER_S = 10
"""Entries of replicas that are read per second, on average: each of ten replicas counts all every second."""

INTERRUPTED_US = 2 * MICRO
"""A longer time between two entries shows that the store was away, or refused entries."""


class Presence:
    """The entry of one replica.

    Args:
        client: the store.
        key: the config key, which holds the policy's text.
        replica: the entry before any policy runs.
        unreadable_addresses: returns how many requests so far had no readable address header.
    """

    def __init__(
        self,
        client: Redis,
        key: str,
        replica: Replica,
        unreadable_addresses: Callable[[], int] = lambda: 0,
    ) -> None:
        self.replica = replica
        self._unreadable_addresses = unreadable_addresses
        self._replicas = Replicas(client, key)
        self.shadow = ShadowCounts()
        self._before: tuple[int, Counter[str]] = (0, Counter())
        self.live = 1
        """The number of live replicas, this one included.

        It rises with each count. It falls only after the store has taken entries for `SILENT_S` without a
        pause, because the entries of live replicas may be missing or old before that.
        """
        self._counted_us: int | None = None
        self._written_us: int | None = None
        self._written_since_us = 0

    def runs(self, digest: str, number: int) -> None:
        """Notes the policy in force. Shadow counts so far belong to the policy before it."""
        if digest != self.replica.digest and self.shadow.counts:
            self._before, self.shadow.counts = (self.replica.number, self.shadow.counts), Counter()
        self.replica = self.replica.model_copy(update={"digest": digest, "number": number})

    def refuses(self, reason: str | None) -> None:
        """Notes why the text in the store is not in force; None when it is."""
        self.replica = self.replica.model_copy(update={"refused": reason})

    async def publish(self, now_us: int) -> None:
        """Writes the entry and adds the shadow counts. Raises StoreError, and keeps the counts then.

        `now_us` is the store's clock.
        """
        if self._written_us is None or abs(now_us - self._written_us) > INTERRUPTED_US:
            self._written_since_us = now_us
        await self._count(now_us)
        started_us = self.replica.started_us or now_us
        self.replica = self.replica.model_copy(
            update={
                "started_us": started_us,
                "seen_us": now_us,
                "unreadable_addresses": self._unreadable_addresses(),
            }
        )
        await self._replicas.publish(self.replica)
        self._written_us = now_us
        await self._replicas.add_shadow(*self._before)
        self._before = (0, Counter())
        counts = Counter(self.shadow.counts)
        await self._replicas.add_shadow(self.replica.number, counts)
        self.shadow.counts.subtract(counts)
        self.shadow.counts = +self.shadow.counts  # drops the counts that are 0 now

    async def _count(self, now_us: int) -> None:
        """Counts the live replicas, if that is due. It comes before the writes, which a store may refuse."""
        interval_us = self.live * MICRO // COUNTED_PER_S
        if self._counted_us is not None and abs(now_us - self._counted_us) < interval_us:
            return
        listed = await self._replicas.listed(now_us)
        if all(one.id != self.replica.id for one in listed):  # the first entry, or the store was emptied
            self._written_since_us = now_us
        found = 1 + sum(one.id != self.replica.id and not one.is_silent(now_us) for one in listed)
        if found > self.live or now_us - self._written_since_us > SILENT_S * MICRO:
            self.live = found
        self._counted_us = now_us

    async def leave(self) -> None:
        """Removes the entry. Raises StoreError."""
        await self._replicas.leave(self.replica.id)
