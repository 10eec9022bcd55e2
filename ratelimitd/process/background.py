"""Runs coroutines in the background of a block."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

CANCEL_AGAIN_S = 0.05
"""How long a task may take to end before it is cancelled again."""


@asynccontextmanager
async def background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs the coroutines until the end of the block.

    It cancels until each has ended: asyncio.wait_for, used by redis-py, may swallow a cancellation before
    Python 3.12.
    """
    pending = {asyncio.create_task(one) for one in coroutines}
    try:
        yield
    finally:
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
