"""Fixtures of a real store, which runs once per worker and is emptied for each test that uses its client."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store

# HYPOTHESIS_PROFILE chooses: `quick` looks for new examples in every run, `ci` always runs the same ones, and
# `nightly` searches longest. Some tests run a multiple of the profile's number of examples.
# Examples have no deadline, because no test asserts a duration.
settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("nightly", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "quick"))

# The tests call gRPC services on loopback, whatever proxy the environment names.
os.environ["no_grpc_proxy"] = "127.0.0.1,localhost"  # noqa: SIM112 - grpc reads no other spelling


# Several services run at the same time, so each listens on a free port.
os.environ["RATELIMITD_METRICS_LISTEN"] = "127.0.0.1:0"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rejects tests with equal node IDs, because pytest-xdist would run only one of them."""
    counts = Counter(item.nodeid for item in items)
    if shared := sorted(nodeid for nodeid, count in counts.items() if count > 1):
        raise pytest.UsageError(f"several tests have the same node ID: {', '.join(shared)}")


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """Runs a real store and yields its URL."""
    with asyncio.Runner() as runner:
        store = embedded_store()
        yield runner.run(store.__aenter__())
        runner.run(store.__aexit__(None, None, None))


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Redis]:
    """Yields a client of an empty store."""
    async with open_client(store_url) as client:
        await client.flushall()
        yield client
