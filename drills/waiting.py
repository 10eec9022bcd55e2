"""Waits for conditions."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from drills.errors import DrillError

POLL_S = 0.1


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Returns once `condition` holds. Raises DrillError after `seconds`, with `what` in the message."""
    limit_s = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > limit_s:
            raise DrillError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(POLL_S)
