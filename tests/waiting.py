"""Waiting for a condition instead of for a time."""

import asyncio
from collections.abc import Awaitable, Callable

WAIT_S = 20.0


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns once `condition` holds; fails, saying `what` was awaited, when it does not in WAIT_S."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + WAIT_S
    while not await condition():
        assert loop.time() < deadline, f"not within {WAIT_S:g} s: {what}"
        await asyncio.sleep(0.02)
