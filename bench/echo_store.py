"""The store call of an echo server that calls the store, through the same batcher and link as the service."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle

STORE_URL = "_BENCH_STORE_URL"
"""Environment variable with the store's URL. An echo server without it does not call a store."""

StoreCall = Callable[[], Awaitable[object]]


@asynccontextmanager
async def open_store_call() -> AsyncIterator[StoreCall | None]:
    """Yields a function that makes one store decision, for the users in turn. Yields None without a store."""
    url = os.environ.get(STORE_URL)
    if not url:
        yield None
        return
    from bench.stores import open_limiter, take_request  # noqa: PLC0415 - an echo without a store starts faster
    from bench.workloads import USERS  # noqa: PLC0415 - as above

    requests = cycle([take_request(number) for number in range(USERS)])
    async with open_limiter(url) as limiter:
        yield lambda: limiter.take(next(requests))
