"""Leads connections to the master that Sentinels name now.

An old master may live on: it was cut off, or hung while another one took its place. It may take writes, which
are lost, and nothing on a connection to it says so. Only the Sentinels know.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Protocol

from redis.asyncio import Redis
from redis.exceptions import RedisError

from ratelimitd.bounded_log import BoundedLog, FailureLog
from ratelimitd.process.background import background
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.sentinel import Sentinels, Survey, in_words
from ratelimitd.store_url import Node

WATCH_INTERVAL_S = 0.5
"""Time between two questions to the Sentinels. It bounds how long an old master is used."""


class Led(Protocol):
    """Something with connections to the master."""

    def lead_to(self, masters: Collection[Node]) -> None:
        """Replaces connections that lead to none of these servers."""
        ...


@asynccontextmanager
async def watching_master(client: Redis, *others: Led) -> AsyncIterator[None]:
    """Leads a client from `open_client`, and others, to the master until the end of the block.

    It does nothing for a store without Sentinels.
    """
    pool = pool_of(client)
    if pool.locate is None:
        yield
        return
    async with background(_watch(pool.locate, [pool, *others])):
        yield


async def _watch(sentinels: Sentinels, led: Collection[Led]) -> None:
    log = _WatchLog()
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        try:
            survey = await sentinels.survey()
        except RedisError as error:
            log.failed(str(error))
            continue
        log.surveyed(survey)
        for one in led:
            one.lead_to(survey.masters)


class _WatchLog:
    """Logs another master, and Sentinels that do not answer."""

    def __init__(self) -> None:
        self._log = BoundedLog("ratelimitd.store")
        self._failure_log = FailureLog("ratelimitd.store")
        self._masters: tuple[Node, ...] = ()

    def failed(self, reason: str) -> None:
        """Notes that no Sentinel names a master."""
        self._failure_log.warning("sentinel_failed", reason=reason)

    def surveyed(self, survey: Survey) -> None:
        """Notes what the Sentinels answered."""
        if self._masters and self._masters[0] not in survey.masters:
            self._log.warning("master_changed", master=str(survey.masters[0]), before=str(self._masters[0]))
        self._masters = survey.masters
        if survey.failures:
            self.failed(in_words(survey.failures))
        else:
            self._failure_log.worked("sentinel_failed")
