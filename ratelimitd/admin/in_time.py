"""The store's deadline for operators. Nothing that they ask waits for ever."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from ratelimitd.errors import StoreError

STORE_S = 5.0
"""A thousand times what an answer takes."""

WALK_S = 30.0
"""A walk through all keys of a large store takes seconds."""

_Answer = TypeVar("_Answer")


async def in_time(answer: Awaitable[_Answer], within_s: float | None = None) -> _Answer:
    """The answer. Raises StoreError when it takes longer, with None than STORE_S.

    A change may have happened then all the same.
    """
    limit_s = STORE_S if within_s is None else within_s
    try:
        async with asyncio.timeout(limit_s):
            return await answer
    except TimeoutError as error:
        raise StoreError(f"the store did not answer within {limit_s:g} s") from error
