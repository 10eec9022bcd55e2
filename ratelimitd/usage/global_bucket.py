"""The global bucket as a replica knows it: what the store held at the last report, and the refill since."""

import time
from collections.abc import Callable
from typing import NamedTuple

from redis.asyncio import Redis

from ratelimitd.core.bucket import Bucket, refill
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.ports import Policies
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.store.buckets import Buckets

MAX_AGE_S = 15.0
"""How long a reading is used: three reports. Later the refill alone would make it a full bucket."""


class _Reading(NamedTuple):
    """What the store held, at a time of its clock and of ours."""

    key: str
    bucket: Bucket | None
    clock_us: int
    now_s: float


class GlobalBucket:
    """Reads the bucket of the tier `global`, which shows all replicas together.

    Args:
        client: the store.
        policies: the policy in force.
        layout: how the keys of buckets are built.
        number: returns the number of the policy in force.
        now_s: a monotonic clock.
    """

    def __init__(
        self,
        client: Redis,
        policies: Policies,
        layout: KeyLayout,
        number: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buckets = Buckets(client, layout)
        self._policies = policies
        self._layout = layout
        self._number = number
        self._now_s = now_s
        self._reading: _Reading | None = None

    async def read(self) -> int:
        """Reads the bucket. Returns the time of the store's clock, in microseconds. Raises StoreError."""
        tier = self._tier()
        keys = [] if tier is None else [tier[0]]
        stored = await self._buckets.read(keys)
        now_s = self._now_s()
        self._reading = None
        if keys:
            self._reading = _Reading(keys[0], stored.buckets.get(keys[0]), stored.now_us, now_s)
        return stored.now_us

    def tokens(self) -> float | None:
        """Returns the tokens left; None when the tier is off, or the store was not read within MAX_AGE_S.

        What was spent since the last reading is not known.
        """
        if self._reading is None or self._now_s() - self._reading.now_s > MAX_AGE_S:
            return None
        microtokens = self._microtokens()
        return None if microtokens is None else microtokens / MICRO

    def state(self) -> str:
        """Returns the value of `layout.STATE`."""
        tier, microtokens = self._tier(), self._microtokens()
        if tier is None or microtokens is None:
            return f"{self._number()}"
        return f"{self._number()} {microtokens} {tier[1].capacity}"

    def _microtokens(self) -> int | None:
        tier, reading = self._tier(), self._reading
        if tier is None or reading is None or reading.key != tier[0]:
            return None
        now_us = reading.clock_us + round((self._now_s() - reading.now_s) * MICRO)
        return refill(reading.bucket, tier[1], now_us).tokens

    def _tier(self) -> tuple[str, Limit] | None:
        """Returns the key of the bucket and its limit."""
        try:
            policy = self._policies.current()
        except StoreError:
            return None
        rule = policy.tiers.get(TierName.GLOBAL)
        if rule is None:
            return None
        key, _ = self._layout.template(TierName.GLOBAL, "", shadow=rule.shadow or policy.shadow)
        return key, rule.limit
