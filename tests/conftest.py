"""The store that tests share: a real Valkey, started once, emptied before each test that asks for it."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store

# A gate must give the same answer twice; new examples are looked for on people's machines.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """The URL of a real store."""
    with asyncio.Runner() as runner:
        store = embedded_store()
        yield runner.run(store.__aenter__())
        runner.run(store.__aexit__(None, None, None))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Redis]:
    """A client of an empty store."""
    async with open_client(store_url) as client:
        await client.flushall()
        yield client
