"""File descriptors. A process that has none left cannot accept connections, and may spin while it tries."""

import asyncio
import errno
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ratelimitd.bounded_log import BoundedLog

RESERVED = 80
"""Descriptors that are kept free for what is not a connection of a caller: libraries, the store, metrics."""

SLACK = 6
"""Descriptors that are open at the start and may be closed later."""

POLL_INTERVAL_S = 1.0


def raise_limit() -> None:
    """Raises the limit of open files of this process and its children to the highest allowed value."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """How many connections a process with the limit of this one may hold. It is at least 8."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1_000_000
    return max(limit - RESERVED, 8)


@asynccontextmanager
async def watched(poll_interval_s: float = POLL_INTERVAL_S) -> AsyncIterator[None]:
    """Until the end of the block, logs when all connections are taken, and when some are free again."""
    watch = asyncio.create_task(_watch(poll_interval_s))
    try:
        yield
    finally:
        watch.cancel()


def silence_accept_errors() -> None:
    """Keeps the running loop from logging a traceback for each accept without a free descriptor."""
    asyncio.get_running_loop().set_exception_handler(_handle)


def _handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
        loop.default_exception_handler(context)


async def _watch(poll_interval_s: float) -> None:
    log = BoundedLog("ratelimitd")
    enough = await asyncio.to_thread(_open) + max_connections() - SLACK
    exhausted = False
    while True:
        await asyncio.sleep(poll_interval_s)
        if exhausted != (await asyncio.to_thread(_open) >= enough):
            exhausted = not exhausted
            if exhausted:
                log.error("connections_exhausted", at_most=max_connections(), reason="limit of open files")
            else:
                log.info("connections_available")


def _open() -> int:
    """The number of open descriptors. Counting thousands takes milliseconds."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - Path objects would take ten times as long
    except OSError as error:
        # Without /proc nothing is known. Otherwise no descriptor was left for reading the folder.
        return 0 if error.errno == errno.ENOENT else resource.getrlimit(resource.RLIMIT_NOFILE)[0]
