"""A real Envoy with three replicas behind it, shared by the tests of a module."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.store.client import open_client
from tests.example_limits import KEY, new_limits_json, until_in_force

GRPCIO = ("--transport", "grpcio")


@pytest.fixture
async def operator(store: Redis, store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the environment of an operator named alice, and empties the store."""
    await store.ping()
    monkeypatch.setenv("RATELIMITD_REDIS_URL", store_url)
    monkeypatch.setenv("USER", "alice")


@dataclass(frozen=True)
class Front:
    """A running system: its stack, the store that the replicas share, and a client of Envoy."""

    stack: Stack
    store: Redis
    http: httpx.AsyncClient

    async def set_limits(self, **changes: float) -> None:
        """Puts the example limits with changes in force on every replica, and fills every bucket."""
        limits = new_limits_json(**changes)
        await self.fill()  # a replica that already has the new limits must not find an empty bucket
        await self.store.set(KEY, limits)
        await self.store.publish(Revisions(self.store, KEY).channel, "")  # else replicas poll once a second
        await until_in_force(limits, [str(replica) for replica in self.stack.replicas])
        await self.fill()

    async def fill(self) -> None:
        """Fills every bucket. A replica may still remember an earlier denial by a bucket for a second."""
        for key in await self.store.keys("rate:*"):
            await self.store.delete(key)

    async def get(self, user: str, times: int, path: str = "/api/ping") -> list[httpx.Response]:
        """Sends `times` requests of a user at once and returns the responses."""
        calls = [self.http.get(path, headers={"X-User-Id": user}) for _ in range(times)]
        return list(await asyncio.gather(*calls))

    async def buckets(self) -> dict[str, float]:
        """Returns the tokens by key, without the prefix of all keys."""
        keys: list[bytes] = await self.store.keys("rate:*")  # type: ignore[assignment] # it decodes nothing
        tokens = [await self.store.hget(key, "tokens") for key in keys]
        return {
            key.decode().removeprefix("rate:"): float(left or "nan")
            for key, left in zip(keys, tokens, strict=True)
        }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front(store_url: str) -> AsyncIterator[Front]:
    """Runs the system on the shared store."""
    async with (
        running_stack(store_url, replicas=3, flags=GRPCIO) as stack,
        open_client(store_url) as store,
        client_of(stack) as http,
    ):
        yield Front(stack, store, http)


def client_of(stack: Stack) -> httpx.AsyncClient:
    """Returns a client of the stack's Envoy. It does not follow redirects."""
    limits = httpx.Limits(max_connections=20)
    return httpx.AsyncClient(base_url=f"http://{stack.front}", trust_env=False, limits=limits, timeout=30)
