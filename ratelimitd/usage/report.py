"""Adds what a replica counts to the usage series in the store.

Each count is added once, also when a reply is lost: an addition has a number, and is repeated until the store
has answered. While the store is away or refuses writes, samples are kept, and added later to the buckets that
they belong to. No decision waits for any of this.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from ratelimitd.bounded_log import BoundedLog, FailureLog
from ratelimitd.core.model import MICRO
from ratelimitd.errors import StoreError
from ratelimitd.process.background import background
from ratelimitd.store.client import store_errors
from ratelimitd.store.script import Script
from ratelimitd.usage.addition import Addition, Additions
from ratelimitd.usage.global_bucket import GlobalBucket
from ratelimitd.usage.sample import Sample, Sampler

INTERVAL_S = 5.0
"""Time between two reports. A process that is killed loses the counts of at most this time."""

TIMEOUT_S = 1.0
"""How long the store may take to answer all calls of a report."""

SHORT_TIMEOUT_S = 0.2
"""The same for the last report of a replica, when the one before it failed."""

MAX_SAMPLES = 120
"""Samples kept while the store is away: ten minutes of them. Then the oldest two are joined."""


class UsageReport:
    """The usage of one replica.

    Args:
        client: the store.
        additions: makes the calls of the script.
        sampler: reads the counters of this process.
        bucket: the global bucket.
        interval_s: time between two reports, in seconds.
        now_s: the clock of the sampler.
    """

    def __init__(
        self,
        client: Redis,
        additions: Additions,
        sampler: Sampler,
        bucket: GlobalBucket,
        *,
        interval_s: float = INTERVAL_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._script = Script(client, "lua/usage_add.lua")
        self._additions = additions
        self._sampler = sampler
        self._bucket = bucket
        self._interval_s = interval_s
        self._now_s = now_s
        self._samples: deque[Sample] = deque()
        self._unanswered: Addition | None = None
        self._rest: Iterator[Addition] = iter(())
        self._log = BoundedLog("ratelimitd.usage")
        self._failure_log = FailureLog("ratelimitd.usage")
        self._failing = False

    def is_unanswered(self) -> bool:
        """Returns whether there is an addition that the store may have made or not."""
        return self._unanswered is not None

    async def report(self, timeout_s: float = TIMEOUT_S) -> None:
        """Takes a sample, and adds all that are not in the store yet. A failure is logged, not raised."""
        self._samples.append(self._sampler.sample())
        if len(self._samples) > MAX_SAMPLES:
            oldest = self._samples.popleft()
            self._samples[0].add(oldest)
        failure = ""
        try:
            async with asyncio.timeout(timeout_s):
                failure = await self._send()
        except (StoreError, TimeoutError) as error:
            failure = str(error) or "no answer in time"
        self._failing = bool(failure)
        if failure:
            self._failure_log.warning("usage_report_failed", reason=failure)
        else:
            self._failure_log.worked("usage_report_failed")

    async def _send(self) -> str:
        """Returns the reason why a part could not be written, empty if all was. Raises StoreError."""
        failure = await self._add_rest()
        clock_us = await self._bucket.read()
        ahead_s = clock_us / MICRO - self._now_s()
        samples = [(int(sample.at_s + ahead_s), sample) for sample in self._samples]
        self._rest = self._additions.of(samples, self._bucket.state(), clock_us // MICRO)
        self._samples.clear()
        return await self._add_rest() or failure

    async def _add_rest(self) -> str:
        """Makes the additions that are left. Calls are built one by one, between two of which others run."""
        failure = ""
        while True:
            self._unanswered = self._unanswered or next(self._rest, None)
            if self._unanswered is None:
                return failure
            with store_errors():
                reply = await self._script(*self._unanswered)
            self._unanswered = None
            failure = reply.decode(errors="replace") or failure

    @asynccontextmanager
    async def reporting(self) -> AsyncIterator[None]:
        """Reports until the end of the block, which must come after the last decision, and once more then."""
        try:
            async with background(self._report_always()):
                yield
        finally:
            await self.report(SHORT_TIMEOUT_S if self._failing else TIMEOUT_S)

    async def _report_always(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.report()
            except Exception:  # noqa: BLE001 - after a defect, later counts must still be reported
                self._log.exception("usage_report_defect")
