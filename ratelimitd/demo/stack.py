"""Starts replicas, backend and Envoy beside a store; whatever was started is stopped, in reverse."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.process.child import Child, child
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.resources import resource
from ratelimitd.settings import PREFIX, env_name
from ratelimitd.transport.listener import ensure_free

ADDRESS_HEADER = "x-ratelimitd-client-address"
"""The header that envoy.yaml overwrites with the client's address."""


@dataclass(frozen=True)
class Stack:
    """Where everything answers, the processes, and the folder of their logs, one `NAME.log` each.

    `admin` is Envoy's own interface, `panel` our admin service, None where it was not asked for.
    """

    replicas: tuple[TcpAddress, ...]
    front: TcpAddress
    admin: TcpAddress
    panel: TcpAddress | None
    children: tuple[Child, ...]
    logs: Path


@asynccontextmanager
async def running_stack(
    store_url: str,
    *,
    front_port: int = 0,
    replicas: int = 2,
    flags: Sequence[str] = (),
    admin_key: str = "",
) -> AsyncIterator[Stack]:
    """The system, ready for requests.

    Args:
        store_url: the store that the replicas share.
        front_port: where Envoy listens on loopback; 0 picks a free port.
        replicas: how many ratelimitd processes.
        flags: more flags for `ratelimitd serve`.
        admin_key: a key for the admin service; without one it is not started.

    Raises ListenError when `front_port` is taken, and ChildError when a part does not start.
    """
    front = TcpAddress(LOOPBACK, front_port or free_port())
    ensure_free(front)
    backend, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    services = tuple(TcpAddress(LOOPBACK, free_port()) for _ in range(replicas))
    panel = TcpAddress(LOOPBACK, free_port()) if admin_key else None
    async with AsyncExitStack() as stack:
        # Settings of the caller's own are not for these; and a password in a URL is not for `ps` to show.
        env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        env |= {env_name("redis_url"): store_url, env_name("address_header"): ADDRESS_HEADER}
        logs = Path(stack.enter_context(TemporaryDirectory(prefix="ratelimitd-demo-")))
        children: list[Child] = []

        async def start(name: str, command: Sequence[str], **more: str) -> Child:
            process = child(name, command, logs / f"{name}.log", env | more)
            children.append(await stack.enter_async_context(process))
            return children[-1]

        behind = [(await start("backend", _backend_command(backend)), partial(_http_ok, backend, "/health"))]
        for number, service in enumerate(services, start=1):
            command = [*_SERVE, "--listen", str(service), *flags]
            behind.append((await start(f"ratelimitd-{number}", command), partial(_grpc_serving, service)))
        if panel is not None:
            command = [*_RATELIMITD, "admin", "--admin-listen", str(panel)]
            command += ["--admin-check-target", str(services[0])]
            admin_service = await start("admin", command, **{env_name("admin_key"): admin_key})
            behind.append((admin_service, partial(_http_ok, panel, "/readyz")))
        await asyncio.gather(*(one.until(ready) for one, ready in behind))

        # Only now: a replica that is not up when Envoy first looks has to wait for its next health check.
        config = logs / "envoy.yaml"
        config.write_text(
            envoy_config(listener=front, admin=admin, clusters={"ratelimitd": services, "backend": [backend]})
        )
        envoy = await start("envoy", envoy_command(config))
        await envoy.until(partial(_http_ok, admin, "/ready"))
        yield Stack(services, front, admin, panel, tuple(children), logs)


async def first_to_end(stack: Stack) -> str:
    """The name of the first process of the stack that ends by itself."""
    waits = {asyncio.create_task(one.process.wait()): one.name for one in stack.children}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for task in waits:
            task.cancel()


_RATELIMITD = [sys.executable, "-P", "-m", "ratelimitd"]
_SERVE = [*_RATELIMITD, "serve", "--leave-s", "0"]  # Envoy has ended before they do


def _backend_command(address: TcpAddress) -> list[str]:
    folder = str(resource("backend/app.py").parent)
    uvicorn = [sys.executable, "-P", "-m", "uvicorn", "--app-dir", folder, "app:app"]
    return [*uvicorn, "--host", address.host, "--port", str(address.port), "--no-access-log"]


def envoy_command(config: Path) -> list[str]:
    """Runs Envoy with this configuration. Raises ChildError when there is no Envoy for this machine."""
    quiet = ("--log-level", "warning", "--disable-hot-restart")
    return [
        envoy_binary(),
        "-c",
        str(config),
        *quiet,
        "--concurrency",
        "2",
        "--file-flush-interval-msec",
        "200",
    ]


async def _http_ok(address: TcpAddress, path: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.get(f"http://{address}{path}")).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _grpc_serving(address: TcpAddress) -> bool:
    async with grpc.aio.insecure_channel(str(address), options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            reply = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=1.0
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
