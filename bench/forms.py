"""What is put under load: each form of the service, the floors beside them, and a service of the reader's."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import grpc
import httpx
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import echo, messages
from bench.asking import STORE_URL
from bench.front import HOT_PATH, backend_config, front_config
from bench.messages import Method
from bench.stores import LATE_S
from ratelimitd.address import TcpAddress
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import Child, child
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import PREFIX

GRPCIO, FAST, INSIDE, YOURS = "grpcio", "fast", "in the front Envoy", "yours"
FLOOR_OF = {GRPCIO: "echo on grpc.aio", FAST: "echo in the same host", INSIDE: "echo in the front Envoy"}
ASKING_OF = {GRPCIO: "echo on grpc.aio, asking the store", FAST: "echo in the same host, asking the store"}
"""Echoes that ask the store as the service does: all of a decision but the decision."""

UNLIMITED = "Envoy with no limit"

ROOT = Path(__file__).parents[1]
_POLL_INTERVAL_S = 0.01


@dataclass(frozen=True)
class Form:
    """Something that is up.

    Args:
        name: what the tables call it.
        address: where the direct load goes, or None.
        method: the gRPC method of that load.
        service: its process, or None: the CPU is then Envoy's, or unknown.
        store: the process of its store, or None for one that asks none.
        front: an Envoy before it, with the process of that Envoy, or None.
        start_s: from the start of the process to the first sign that it serves.
    """

    name: str
    address: TcpAddress | None
    method: Method = field(default_factory=messages.check)
    service: int | None = None
    store: int | None = None
    front: tuple[TcpAddress, int] | None = None
    start_s: float = 0.0


def _environ(store_url: str) -> dict[str, str]:
    """No settings of the reader's own; deadlines that a busy machine keeps."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        "PYTHONPATH": str(ROOT),
        "RATELIMITD_REDIS_URL": store_url,
        "RATELIMITD_STORE_TIMEOUT_MS": f"{LATE_S * 1000:.0f}",
        "RATELIMITD_ADDRESS_HEADER": ADDRESS_HEADER,
        "RATELIMITD_LEAVE_S": "0",
        "RATELIMITD_LOG_LEVEL": "warning",
    }


async def _until(started: Child, ready: Callable[[], Awaitable[bool]]) -> None:
    """As the child's own wait, but it looks more often: what is measured here takes a second or less."""

    async def soon() -> bool:
        for _ in range(5):
            if await ready():
                return True
            await asyncio.sleep(_POLL_INTERVAL_S)
        return False

    await started.until(soon)


async def serves(address: TcpAddress) -> bool:
    """Whether gRPC health says SERVING."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(str(address), options=options) as channel:
        try:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def _listens(address: TcpAddress) -> bool:
    """Whether connections are taken: an echo has no health."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


async def _answers(front: TcpAddress) -> bool:
    """Whether a request gets through Envoy, which asks a service only once that is healthy."""
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            reply = await client.get(f"http://{front}{HOT_PATH}", headers={"x-user-id": "first"})
    except httpx.TransportError:
        return False
    return reply.status_code == httpx.codes.OK


@asynccontextmanager
async def service(name: str, store_url: str, folder: Path) -> AsyncIterator[Form]:
    """`ratelimitd serve` with the transport of this name."""
    address = TcpAddress(LOOPBACK, free_port())
    command = [sys.executable, "-P", "-m", "ratelimitd", "serve"]
    command += ["--transport", name, "--listen", str(address)]
    began = time.perf_counter()
    async with child(name, command, folder / f"{name}.log", _environ(store_url)) as process:
        await _until(process, partial(serves, address))
        yield Form(name, address, service=process.process.pid, start_s=time.perf_counter() - began)


@asynccontextmanager
async def floor(name: str, store_url: str | None, folder: Path) -> AsyncIterator[Form]:
    """The echo beside which the transport of this name is measured; with a store, the one that asks it."""
    address = TcpAddress(LOOPBACK, free_port())
    called = (FLOOR_OF if store_url is None else ASKING_OF)[name]
    command = [sys.executable, "-P", "-m", f"bench.echo_{name}", str(address)]
    environ = _environ("") | {STORE_URL: store_url or ""}
    async with child(called, command, folder / f"{called}.log", environ) as process:
        await _until(process, partial(_listens, address))
        yield Form(called, address, messages.echoed(), service=process.process.pid)


@asynccontextmanager
async def backend(folder: Path) -> AsyncIterator[TcpAddress]:
    """What every front forwards to."""
    address = TcpAddress(LOOPBACK, free_port())
    config = folder / "backend.yaml"
    config.write_text(backend_config(address))
    command = [*_envoy(config), "--concurrency", "1"]
    async with child("backend", command, folder / "backend.log", os.environ) as process:
        await _until(process, partial(_listens, address))
        yield address


@asynccontextmanager
async def front(behind: Form | None, forward: TcpAddress, folder: Path) -> AsyncIterator[Form]:
    """An Envoy that asks this service, or nobody, before it forwards a request."""
    name = UNLIMITED if behind is None else behind.name
    asked = None if behind is None else behind.address
    listener = TcpAddress(LOOPBACK, free_port())
    config = folder / f"front-{name}.yaml"
    config.write_text(front_config(listener, forward, asked, limited=behind is not None))
    command = [*_envoy(config), "--concurrency", "2"]
    async with child(f"Envoy ({name})", command, folder / f"front-{name}.log", os.environ) as envoy:
        await _until(envoy, partial(_answers, listener))
        front_of = (listener, envoy.process.pid)
        if behind is None:
            yield Form(name, None, front=front_of)
        else:
            yield replace(behind, front=front_of)


@asynccontextmanager
async def inside(store_url: str, forward: TcpAddress, folder: Path) -> AsyncIterator[Form]:
    """`ratelimitd envoy`: the service in the Envoy that asks it."""
    listener = TcpAddress(LOOPBACK, free_port())
    config = folder / "inside.yaml"
    config.write_text(front_config(listener, forward, None, limited=True))
    command = [sys.executable, "-P", "-m", "ratelimitd", "envoy", "--config", str(config)]
    command += ["--", "--concurrency", "2"]
    began = time.perf_counter()
    async with child(INSIDE, command, folder / "inside.log", _environ(store_url)) as process:
        await _until(process, partial(_answers, listener))
        start_s = time.perf_counter() - began
        yield Form(INSIDE, None, front=(listener, process.process.pid), start_s=start_s)


@asynccontextmanager
async def floor_inside(forward: TcpAddress, folder: Path) -> AsyncIterator[Form]:
    """The echo where `inside` has the service: what an Envoy that asks itself costs at least."""
    from ratelimitd.transport.fast import bootstrap  # noqa: PLC0415 - the same
    from ratelimitd.transport.fast.embed import with_service  # noqa: PLC0415 - the same

    name, listener = FLOOR_OF[INSIDE], TcpAddress(LOOPBACK, free_port())
    parsed = yaml.safe_load(front_config(listener, forward, None, limited=True))
    config = folder / "floor_inside.json"
    config.write_text(json.dumps(with_service(parsed, app=echo.HOSTED, cluster="ratelimitd")))
    command = [*_envoy(config), "--concurrency", "2"]
    environ = {**_environ(""), **bootstrap.environment()}
    async with child(name, command, folder / "floor_inside.log", environ) as process:
        await _until(process, partial(_answers, listener))
        yield Form(name, None, front=(listener, process.process.pid))


def _envoy(config: Path) -> list[str]:
    return [envoy_binary(), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]


def other(address: TcpAddress, *, rls: bool, service: int | None, store: int | None) -> Form:
    """A service that the reader runs, and the processes that its CPU is read from."""
    method = messages.should_rate_limit() if rls else messages.check()
    return Form(YOURS, address, method, service=service, store=store)
