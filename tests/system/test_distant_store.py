"""The service with a store whose replies take a while: no decision waits for a connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis

from ratelimitd.address import TcpAddress
from ratelimitd.core.model import Request
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.transport.client import check_service
from tests.delaying_proxy import ONE_WAY_S, delaying_proxy, distant_url, port_of
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.system.processes import started

USERS = 12
FRESH = ("script|load", "ping")
"""The last command of a connection for decisions that has made none yet."""


@asynccontextmanager
async def serving(url: str, transport: str) -> AsyncIterator[str]:
    """Runs the service, and yields its address as soon as health reports SERVING."""
    address = TcpAddress(LOOPBACK, free_port())
    flags = ("--listen", str(address), "--transport", transport, "--store-timeout-ms", "150")
    async with started("serve", *flags, env={"RATELIMITD_REDIS_URL": url}) as process:
        assert process.returncode is None

        async def healthy() -> bool:
            async with grpc.aio.insecure_channel(str(address)) as channel:
                try:
                    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                except grpc.aio.AioRpcError:
                    return False
                return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(healthy, "the service reports SERVING")
        yield str(address)


async def outcomes(address: str) -> list[str]:
    """Returns the outcomes of requests of as many users at once."""
    requests = [Request("GET", "/api/ping", "", {"x-user-id": str(n)}, "", {}) for n in range(USERS)]
    return [
        reply.outcome for reply in await asyncio.gather(*(check_service(address, one) for one in requests))
    ]


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_first_decisions_after_serving_and_after_a_lost_connection_are_made(
    store: Redis, store_url: str, transport: str
) -> None:
    await store.set(KEY, limits_json(global_capacity=1000))
    async with (
        delaying_proxy(port_of(store_url), ONE_WAY_S) as proxy,
        serving(await distant_url(store, proxy.port), transport) as address,
    ):
        assert await outcomes(address) == ["allowed"] * USERS
        before = proxy.connections
        proxy.cut()

        async def reconnected() -> bool:
            names = [one["name"] for one in await store.client_list() if one["cmd"] in FRESH]
            return proxy.connections > before and names == ["ratelimitd"]

        await eventually(reconnected, "the service has a new connection for decisions")
        assert await outcomes(address) == ["allowed"] * USERS


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_service_whose_store_accepts_and_does_not_answer_serves_the_outage_reply(
    store_url: str, transport: str
) -> None:
    async with (
        delaying_proxy(port_of(store_url), delay_s=60.0) as proxy,
        serving(f"redis://{LOOPBACK}:{proxy.port}/0", transport) as address,
    ):
        reply = await check_service(address, Request("GET", "/api/ping", "", {}, "10.0.0.1", {}))
    assert (reply.outcome, reply.http_status) == ("denied", 503)
