"""Replaces open connections when the URL or the credentials of a store change.

A new connection finds out by itself. An open one would stay with the old server or the old password.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import structlog
from redis.exceptions import RedisError

from ratelimitd.process.background import background
from ratelimitd.store.access import StoreAccess

INTERVAL_S = 1.0
"""Time between two looks at the files."""

REFUSED_S = 10.0
"""Time between two attempts to use credentials that the store refused. The last accepted ones are in use."""

Renew = Callable[[], Awaitable[None]]
"""Replaces open connections. Raises RedisError or OSError if it cannot, and is then called again."""


@asynccontextmanager
async def watching_access(access: StoreAccess, *renewals: Renew) -> AsyncIterator[None]:
    """Looks at the files every second until the end of the block, and calls the functions after each change.

    If the store refuses new credentials, it calls them again every REFUSED_S. It does nothing if the URL and
    the credentials cannot change.
    """
    if not access.may_change:
        yield
        return
    async with background(_watch(access, renewals)):
        yield


async def _watch(access: StoreAccess, renewals: Collection[Renew]) -> None:
    renewed, problem = 0, ""  # a change may have come before this task ran
    try_again_s = float("inf")  # when to try credentials again that were refused
    log = structlog.get_logger("ratelimitd.store")
    while True:
        await asyncio.sleep(INTERVAL_S)
        await access.poll()
        if time.monotonic() >= try_again_s:
            access.try_again()
        version = access.version
        if version == renewed:
            continue
        access.forget_refusals()
        try:
            await asyncio.gather(*(renew() for renew in renewals))
        except (RedisError, OSError) as error:  # the connections in use stay until they end
            if str(error) != problem:
                problem = str(error)
                log.warning("store_renewal_failed", reason=problem)
        else:
            renewed, problem = version, ""
            if access.version != version:  # there was another change meanwhile
                continue
            if access.credentials_refused:
                try_again_s = time.monotonic() + REFUSED_S
            else:
                try_again_s = float("inf")
                nodes = access.url.nodes
                log.info("store_renewed", server=str(nodes[0]) if nodes else "socket")
