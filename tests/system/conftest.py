"""A real Envoy with three replicas behind it, shared by the tests of a module."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import grpc
import httpx
import pytest_asyncio
from redis.asyncio import Redis

from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.store.client import open_client
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.grpcio import SERVICE
from tests.waiting import eventually

KEY = "rate_limit:config"
SEED = {
    "global_capacity": 10,
    "global_rate": 1,
    "user_capacity": 5,
    "user_rate": 1,
    "user_api_capacity": 3,
    "user_api_rate": 1,
}
STILL = {"global_rate": 0.000001, "user_rate": 0.000001, "user_api_rate": 0.000001}
"""Rates at which no token comes back during a test, so that counts are exact."""


@dataclass(frozen=True)
class Front:
    """Envoy's listener, what is behind it, and the store that the replicas share."""

    stack: Stack
    store: Redis
    http: httpx.AsyncClient

    async def set_limits(self, **changes: float) -> None:
        """The seed's limits with changes, in force on every replica, and every bucket full."""
        limits = SEED | changes
        await self.store.set(KEY, json.dumps(limits))
        expected = ", ".join(_policy_item(tier, limits) for tier in ("global", "user", "user_api"))

        async def in_force() -> bool:
            fields = [await policy_field(str(replica)) for replica in self.stack.replicas]
            return all(field == expected for field in fields)

        await eventually(in_force, f"limits {limits} on every replica")
        for key in await self.store.keys("rate:*"):
            await self.store.delete(key)

    async def get(self, user: str, times: int, path: str = "/api/ping") -> list[httpx.Response]:
        """So many requests of a user at once."""
        calls = [self.http.get(path, headers={"X-User-Id": user}) for _ in range(times)]
        return list(await asyncio.gather(*calls))

    async def buckets(self) -> dict[str, float]:
        """Tokens by key, without the common prefix."""
        keys: list[bytes] = await self.store.keys("rate:*")  # type: ignore[assignment] # it decodes nothing
        tokens = [await self.store.hget(key, "tokens") for key in keys]
        return {
            key.decode().removeprefix("rate:"): float(left or "nan")
            for key, left in zip(keys, tokens, strict=True)
        }


def _policy_item(tier: str, limits: Mapping[str, float]) -> str:
    capacity, rate = limits[f"{tier}_capacity"], limits[f"{tier}_rate"]
    return f'"{tier}";q={capacity};w={math.ceil(round(capacity / rate, 6))}'


async def policy_field(target: str) -> str:
    """The RateLimit-Policy that a replica answers with; costs the user `probe` a token."""
    request = CheckRequest()
    request.attributes.request.http.headers["x-user-id"] = "probe"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        answer = await call(request, timeout=5)
    options = [*answer.ok_response.response_headers_to_add, *answer.denied_response.headers]
    return next((o.header.value for o in options if o.header.key == "ratelimit-policy"), "")


def statuses(replies: list[httpx.Response]) -> dict[int, int]:
    """How many of each status."""
    found = [reply.status_code for reply in replies]
    return {status: found.count(status) for status in sorted(set(found))}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def front_of_module(store_url: str) -> AsyncIterator[Front]:
    """The system on the shared store."""
    async with (
        running_stack(store_url, replicas=3) as stack,
        open_client(store_url) as store,
        client_of(stack) as http,
    ):
        yield Front(stack, store, http)


@pytest_asyncio.fixture(loop_scope="module")
async def front(front_of_module: Front) -> Front:
    """The system with the seed's limits and full buckets."""
    await front_of_module.set_limits()
    return front_of_module


def client_of(stack: Stack) -> httpx.AsyncClient:
    """A client of the stack's Envoy; no redirect is followed, so that each can be seen."""
    limits = httpx.Limits(max_connections=100)
    return httpx.AsyncClient(base_url=f"http://{stack.front}", trust_env=False, limits=limits, timeout=30)
