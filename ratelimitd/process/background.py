"""Runs coroutines in the background of a block, and ends tasks."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

CANCEL_AGAIN_S = 0.05
"""How long a task may take to end before it is cancelled again."""


@asynccontextmanager
async def background(*coroutines: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs the coroutines until the end of the block."""
    tasks = [asyncio.create_task(one) for one in coroutines]
    try:
        yield
    finally:
        await cancelled(*tasks)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """Cancels tasks until each has ended.

    asyncio.wait_for, used by redis-py, may swallow a cancellation before Python 3.12.
    """
    pending = {*tasks}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
