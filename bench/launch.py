"""Starts targets. Every function is a context manager that yields a ready target and stops it afterwards."""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench import grpc_methods
from bench.echo_store import STORE_URL
from bench.front_envoy import HOT_PATH, backend_config, front_config
from bench.stores import CONFIG_KEY, LEASED_CONFIG_KEY, STORE_TIMEOUT_S
from bench.targets import ECHO_OF, FAST, INSIDE, LEASING, STORE_ECHO_OF, UNLIMITED, UNOBSERVED, Front, Target
from ratelimitd.address import TcpAddress
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import child
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import PREFIX

ROOT = Path(__file__).parents[1]
_POLL_INTERVAL_S = 0.01


def _environ(store_url: str, checkout: Path = ROOT) -> dict[str, str]:
    """This process's environment without its RATELIMITD_ variables, and with settings for a busy machine."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    # Versions before 0.7 have no metrics, and refuse the setting.
    modules = checkout.glob("ratelimitd/settings*.py")
    has_metrics = any("metrics_listen:" in module.read_text() for module in modules)
    return {
        **others,
        **({"RATELIMITD_METRICS_LISTEN": f"{LOOPBACK}:0"} if has_metrics else {}),
        "PYTHONPATH": str(checkout),
        "RATELIMITD_REDIS_URL": store_url,
        "RATELIMITD_STORE_TIMEOUT_MS": f"{STORE_TIMEOUT_S * 1000:.0f}",
        "RATELIMITD_ADDRESS_HEADER": ADDRESS_HEADER,
        "RATELIMITD_LEAVE_S": "0",
        "RATELIMITD_LOG_LEVEL": "warning",
    }


async def is_serving(address: TcpAddress) -> bool:
    """Whether the gRPC health check returns SERVING."""
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(str(address), options=options) as channel:
        try:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def accepts(address: TcpAddress) -> bool:
    """Whether the address accepts connections; echo servers have no health check."""
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except OSError:
        return False
    writer.close()
    return True


async def _forwards(front: TcpAddress) -> bool:
    """Whether a request passes Envoy, which calls a service only once its health check has succeeded."""
    if not await accepts(front):
        return False
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            reply = await client.get(f"http://{front}{HOT_PATH}", headers={"x-user-id": "first"})
    except httpx.TransportError:
        return False
    return reply.status_code == httpx.codes.OK


@asynccontextmanager
async def service(
    transport: str,
    store_url: str,
    folder: Path,
    *,
    checkout: Path = ROOT,
    module: str = "ratelimitd",
    name: str | None = None,
    config_key: str = CONFIG_KEY,
) -> AsyncIterator[Target]:
    """`ratelimitd serve` with this transport, from this checkout or another one with its own .venv.

    `module` is the one that has the command line. `config_key` is the key of the policy.
    """
    name = name or transport
    python = sys.executable if checkout == ROOT else str(checkout / ".venv/bin/python")
    address = TcpAddress(LOOPBACK, free_port())
    command = [python, "-P", "-m", module, "serve"]
    command += ["--transport", transport, "--listen", str(address)]
    began = time.perf_counter()
    # Up to version 0.4.2, Python inside Envoy imports from the working directory, so the folder is empty.
    cwd, environ = _empty(folder), _environ(store_url, checkout)
    environ["RATELIMITD_CONFIG_KEY"] = config_key
    async with child(name, command, folder / f"{name}.log", environ, cwd=cwd) as process:
        await process.until(partial(is_serving, address), poll_interval_s=_POLL_INTERVAL_S)
        yield Target(name, address, service_pid=process.process.pid, start_s=time.perf_counter() - began)


def unobserved(store_url: str, folder: Path) -> AbstractAsyncContextManager[Target]:
    """`fast` without anything that observes its decisions."""
    return service(FAST, store_url, folder, module="bench.unobserved", name=UNOBSERVED)


def leasing(store_url: str, folder: Path) -> AbstractAsyncContextManager[Target]:
    """`fast` with leases of the global bucket."""
    return service(FAST, store_url, folder, name=LEASING, config_key=LEASED_CONFIG_KEY)


def _empty(folder: Path) -> Path:
    working_directory = folder / "empty"
    working_directory.mkdir(exist_ok=True)
    return working_directory


@asynccontextmanager
async def echo_server(transport: str, store_url: str | None, folder: Path) -> AsyncIterator[Target]:
    """The echo server that is the floor of this transport. With a store URL it calls the store."""
    address = TcpAddress(LOOPBACK, free_port())
    name = (ECHO_OF if store_url is None else STORE_ECHO_OF)[transport]
    command = [sys.executable, "-P", "-m", f"bench.echo_{transport}", str(address)]
    environ = _environ("") | {STORE_URL: store_url or ""}
    async with child(name, command, folder / f"{name}.log", environ) as process:
        await process.until(partial(accepts, address), poll_interval_s=_POLL_INTERVAL_S)
        yield Target(name, address, grpc_methods.echo_call(), service_pid=process.process.pid)


@asynccontextmanager
async def backend(folder: Path) -> AsyncIterator[TcpAddress]:
    """The backend that every front Envoy forwards to."""
    address = TcpAddress(LOOPBACK, free_port())
    config = folder / "backend.yaml"
    config.write_text(backend_config(address))
    command = [*_envoy(config), "--concurrency", "1"]
    async with child("backend", command, folder / "backend.log", os.environ) as process:
        await process.until(partial(accepts, address), poll_interval_s=_POLL_INTERVAL_S)
        yield address


@asynccontextmanager
async def front_envoy(target: Target | None, forward: TcpAddress, folder: Path) -> AsyncIterator[Target]:
    """The target with an Envoy in front of it. Without a target, an Envoy that has no limit."""
    name = UNLIMITED if target is None else target.name
    listener = TcpAddress(LOOPBACK, free_port())
    service_address = None if target is None else target.address
    config = front_config(listener, forward, service_address, limited=target is not None)
    async with running_front(f"front-{name}", config, listener, folder) as front:
        yield replace(target or Target(name, None), front=front)


@asynccontextmanager
async def service_inside(store_url: str, forward: TcpAddress, folder: Path) -> AsyncIterator[Target]:
    """`ratelimitd envoy`: the service inside the front Envoy."""
    listener = TcpAddress(LOOPBACK, free_port())
    config = folder / "inside.yaml"
    config.write_text(front_config(listener, forward, None, limited=True))
    command = [sys.executable, "-P", "-m", "ratelimitd", "envoy", "--config", str(config)]
    command += ["--", "--concurrency", "2"]
    began = time.perf_counter()
    async with child(INSIDE, command, folder / "inside.log", _environ(store_url)) as process:
        await process.until(partial(_forwards, listener), poll_interval_s=_POLL_INTERVAL_S)
        start_s = time.perf_counter() - began
        yield Target(INSIDE, None, front=Front(listener, process.process.pid), start_s=start_s)


@asynccontextmanager
async def echo_inside(forward: TcpAddress, folder: Path) -> AsyncIterator[Target]:
    """The echo server inside the front Envoy: the least that an Envoy pays that asks Python inside it."""
    from bench.rungs import BY_NAME, front_of  # noqa: PLC0415 - needed for this target only

    name, listener = ECHO_OF[INSIDE], TcpAddress(LOOPBACK, free_port())
    config, variables = front_of(BY_NAME["headers"], listener, forward)
    environ = {**hosting_environ(""), **variables}
    async with running_front(name, json.dumps(config), listener, folder, environ=environ) as front:
        yield Target(name, None, front=front)


def hosting_environ(store_url: str) -> dict[str, str]:
    """The environment of an Envoy that hosts this Python."""
    from ratelimitd.transport.fast import bootstrap  # noqa: PLC0415 - needed for some targets only

    return {**_environ(store_url), **bootstrap.environment()}


@asynccontextmanager
async def running_front(
    name: str,
    config: str,
    listener: TcpAddress,
    folder: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    concurrency: int = 2,
) -> AsyncIterator[Front]:
    """Runs an Envoy with this configuration until the end of the block.

    Args:
        name: of its files, and in error messages.
        config: YAML or JSON.
        listener: where it accepts requests.
        folder: for its files.
        environ: its environment.
        concurrency: its number of worker threads.
    """
    file = folder / f"{name}.yaml"
    file.write_text(config)
    command = [*_envoy(file), "--concurrency", str(concurrency)]
    async with child(name, command, folder / f"{name}.log", environ) as envoy:
        await envoy.until(partial(_forwards, listener), poll_interval_s=_POLL_INTERVAL_S)
        yield Front(listener, envoy.process.pid)


def _envoy(config: Path) -> list[str]:
    return [envoy_binary(), "-c", str(config), "--disable-hot-restart", "--log-level", "error"]
