"""One real replica, in each of the three ways to run the service, that a test sends requests to."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from tests.eventually import WAIT_S, eventually
from tests.system.processes import line_with, started

WAYS = ("grpcio", "fast", "envoy")
"""The transports, and inside the Envoy that asks."""


PATIENCE_MS = {"grpcio": "1000", "fast": "1000", "envoy": "200"}
"""How long a decision waits for the store: long, because a busy machine is slow. Envoy waits for 250 ms."""


@dataclass(frozen=True)
class OneReplica:
    """A running replica.

    `status_of` sends a request of a user and returns the status that the client gets, 200 when it passes.
    """

    status_of: Callable[[str], Awaitable[int]]
    metrics: TcpAddress

    async def statuses(self, user: str, times: int) -> Counter[int]:
        """Sends requests of a user, some at once, and counts the statuses."""
        counts: Counter[int] = Counter()
        for start in range(0, times, 10):
            some = range(start, min(start + 10, times))
            counts.update(await asyncio.gather(*(self.status_of(user) for _ in some)))
        return counts

    async def until_away(self) -> None:
        """Sends requests until the replica knows that its store is away."""

        async def away() -> bool:
            before = await self.metric("ratelimitd_store_errors_total", reason="away")
            await self.status_of("probe")
            return await self.metric("ratelimitd_store_errors_total", reason="away") > before

        await eventually(away, "the store counts as away")

    async def metric(self, name: str, **labels: str) -> float:
        """Returns the sum of the samples of a metric with these labels."""
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
            text = (await client.get(f"http://{self.metrics}/metrics")).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def one_replica(
    way: str, store_url: str, folder: Path, env: Mapping[str, str]
) -> AsyncIterator[OneReplica]:
    """Runs a replica with more settings in `env` until the end of the block."""
    metrics = TcpAddress(LOOPBACK, free_port())
    env = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_METRICS_LISTEN": str(metrics), **env}
    env["RATELIMITD_STORE_TIMEOUT_MS"] = PATIENCE_MS[way]
    running = _in_envoy(folder, env) if way == "envoy" else _service(way, env)
    async with running as status_of:
        yield OneReplica(status_of, metrics)


@asynccontextmanager
async def _service(transport: str, env: Mapping[str, str]) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    target = f"{LOOPBACK}:{free_port()}"
    flags = ("--transport", transport, "--listen", target, "--leave-s", "0")
    async with started("serve", *flags, env=env) as process:
        await line_with(process, '"listening"')
        async with grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary(
                f"/{SERVICE}/Check",
                request_serializer=CheckRequest.SerializeToString,
                response_deserializer=CheckResponse.FromString,
            )

            async def status_of(user: str) -> int:
                request = CheckRequest()
                http = request.attributes.request.http
                http.method, http.path = "GET", "/api/ping"
                http.headers["x-user-id"] = user
                response: CheckResponse = await check(request, timeout=WAIT_S)
                return response.denied_response.status.code or 200

            yield status_of


@asynccontextmanager
async def _in_envoy(folder: Path, env: Mapping[str, str]) -> AsyncIterator[Callable[[str], Awaitable[int]]]:
    """Runs an Envoy that hosts the service. Its backend is its own admin interface."""
    front, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    clusters = {"ratelimitd": [TcpAddress(LOOPBACK, 1)], "backend": [admin]}
    (folder / "envoy.yaml").write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
    options = ("--config", "envoy.yaml", "--", "--log-level", "error", "--file-flush-interval-msec", "200")
    command = [sys.executable, "-P", "-m", "ratelimitd", "envoy", *options]
    async with (
        httpx.AsyncClient(base_url=f"http://{front}", trust_env=False, timeout=WAIT_S) as client,
        child("envoy", command, folder / "log", env, cwd=folder) as process,
    ):
        await process.until(partial(_answers, client))

        async def status_of(user: str) -> int:
            reply = await client.get("/api/ready", headers={"X-User-Id": user})
            return 200 if reply.status_code == httpx.codes.NOT_FOUND else reply.status_code

        yield status_of


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/nothing")).status_code == httpx.codes.NOT_FOUND
    except httpx.TransportError:
        return False
