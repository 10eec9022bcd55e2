"""The totals of the usage series equal the requests sent, to the one, whichever way replicas run and stop."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import repeat
from pathlib import Path

import grpc
import httpx
import pytest
from redis.asyncio import Redis

from ratelimitd.address import TcpAddress
from ratelimitd.control.control import Control
from ratelimitd.control.usage_answers import DecisionTotals
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import load
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from ratelimitd.usage.ranges import UsageRange
from tests.delaying_proxy import delaying_proxy, port_of
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.system.processes import end_of, line_with, started

LIMITS = limits_json(**NO_REFILL, global_capacity=1000)


@pytest.fixture
def control(store: Redis) -> Control:
    """The control over an empty store."""
    return Control(store, load({}, {}))


async def send(target: str, times: int) -> int:
    """Sends requests of many users to a replica, several at once, and returns how many were answered."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        requests = [CheckRequest() for _ in range(times)]
        for number, request in enumerate(requests):
            request.attributes.request.http.headers["x-user-id"] = f"user{number % 7}"
            request.attributes.request.http.path = f"/api/{number % 3}"
        return len(await asyncio.gather(*(call(request, timeout=20) for request in requests)))


@asynccontextmanager
async def replica(transport: str, store_url: str, target: str) -> AsyncIterator[None]:
    """Runs a replica. At the end it gets SIGTERM, and its status must be 0."""
    serve = ("serve", "--transport", transport, "--redis-url", store_url, "--listen", target)
    async with started(*serve, "--leave-s", "0", "--metrics-listen", "") as process:
        await line_with(process, '"listening"')
        yield
        process.send_signal(signal.SIGTERM)
        assert (await end_of(process))[0] == 0


async def decided(control: Control) -> DecisionTotals:
    """Returns the cumulative totals, which must agree with the totals of the range."""
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert usage.cumulative == usage.totals
    assert usage.warnings == []
    return usage.cumulative


async def test_a_rolling_restart_loses_no_count(store_url: str, store: Redis, control: Control) -> None:
    """The first replica of each transport is replaced, while the third one and the new ones get requests."""
    await store.set(KEY, LIMITS)
    targets = [f"{LOOPBACK}:{free_port()}" for _ in range(5)]
    transports = ("fast", "grpcio", "grpcio", "fast", "grpcio")
    runs = [partial(replica, *one) for one in zip(transports, repeat(store_url), targets, strict=False)]
    sent = 0
    async with AsyncExitStack() as replaced, AsyncExitStack() as others:
        await asyncio.gather(
            *(replaced.enter_async_context(run()) for run in runs[:2]), others.enter_async_context(runs[2]())
        )
        sent += sum(await asyncio.gather(*(send(target, 100) for target in targets[:3])))
        await asyncio.gather(*(others.enter_async_context(run()) for run in runs[3:]))
        meanwhile = [asyncio.create_task(send(target, 100)) for target in targets[2:]]
        await replaced.aclose()
        sent += sum(await asyncio.gather(*meanwhile, send(targets[2], 100)))
    totals = await decided(control)
    assert totals.requests == sent == 700
    assert 0 < totals.allowed <= 7 * 3  # the bucket of each user and API has three tokens


async def test_an_envoy_that_hosts_the_service_reports_before_it_ends(
    store_url: str, store: Redis, control: Control, tmp_path: Path
) -> None:
    await store.set(KEY, LIMITS)
    front, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    nowhere = TcpAddress(LOOPBACK, 1)
    clusters = {"ratelimitd": [nowhere], "backend": [admin]}
    (tmp_path / "envoy.yaml").write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
    options = ("--config", "envoy.yaml", "--", "--log-level", "error")
    command = [sys.executable, "-m", "ratelimitd", "envoy", *options]
    env = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_METRICS_LISTEN": ""}
    async with (
        httpx.AsyncClient(base_url=f"http://{front}", trust_env=False, timeout=30) as client,
        child("envoy", command, tmp_path / "log", env, cwd=tmp_path) as process,
    ):

        async def answers() -> bool:
            try:
                return (await client.get("/nothing")).status_code == 404
            except httpx.TransportError:
                return False

        await process.until(answers)
        replies = [await client.get("/api/ready", headers={"x-user-id": "u"}) for _ in range(20)]
        assert {reply.status_code for reply in replies} <= {200, 429, 503}
    assert (await decided(control)).requests == 20
    assert (await control.status()).replicas == []  # its entry was removed


async def test_a_store_that_hangs_does_not_delay_the_stop(store_url: str) -> None:
    """The report and the removal of the replica's entry take at most a second each."""
    async with delaying_proxy(port_of(store_url)) as proxy:
        target = f"{LOOPBACK}:{free_port()}"
        url = f"redis://{LOOPBACK}:{proxy.port}/0"
        serve = ("serve", "--transport", "grpcio", "--redis-url", url, "--listen", target, "--leave-s", "0")
        async with started(*serve, "--metrics-listen", "") as process:
            await line_with(process, '"listening"')
            await send(target, 1)
            proxy.delay_s = 3600
            process.send_signal(signal.SIGTERM)
            assert (await end_of(process))[0] == 0
