"""Waits for conditions instead of sleeping."""

import asyncio
from collections.abc import Awaitable, Callable

WAIT_S = 20.0


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns once `condition` holds. Fails after WAIT_S, with `what` in the message."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    while not await condition():
        assert loop.time() < deadline, f"not within {WAIT_S:g} s: {what}"
        await asyncio.sleep(0.02)
