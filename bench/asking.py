"""What an echo asks the store where it does, over the same batcher and link as the service."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle

STORE_URL = "_BENCH_STORE_URL"
"""The environment variable that tells an echo which store to ask; without it there is none."""

Ask = Callable[[], Awaitable[object]]


@asynccontextmanager
async def asking() -> AsyncIterator[Ask | None]:
    """One decision of the store, user by user. None without a store."""
    url = os.environ.get(STORE_URL)
    if not url:
        yield None
        return
    from bench.stores import limiting, spend  # noqa: PLC0415 - no other echo needs it
    from bench.works import USERS  # noqa: PLC0415 - the same

    spends = cycle([spend(number) for number in range(USERS)])
    async with limiting(url) as limiter:
        yield lambda: limiter.take(next(spends))
