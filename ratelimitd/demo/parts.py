"""The processes of the demo: the command of each, and the check that tells whether it is ready."""

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ratelimitd.address import TcpAddress
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.resources import resource
from ratelimitd.settings import env_name

HEALTH_TIMEOUT_S = 1.0
"""Time limit of one gRPC health check; it is repeated until the part is ready."""


@dataclass(frozen=True, slots=True)
class Part:
    """A process to start. `environ` is added to the environment that all parts share."""

    name: str
    command: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    environ: Mapping[str, str] = field(default_factory=dict)


# -P: the working directory is not on Python's path, so its files cannot replace modules.
_PYTHON = (sys.executable, "-P", "-m")


def backend(address: TcpAddress) -> Part:
    """Returns the backend service."""
    folder = str(resource("backend/app.py").parent)
    server = [*_PYTHON, "uvicorn", "--app-dir", folder, "app:app", "--no-access-log"]
    command = [*server, "--host", address.host, "--port", str(address.port)]
    return Part("backend", command, partial(_http_ok, address, "/health"))


def replica(number: int, address: TcpAddress, metrics: TcpAddress, flags: Sequence[str]) -> Part:
    """Returns a ratelimitd that listens on `address`, with its metrics at `metrics`."""
    # Envoy stops first, so a replica need not wait until Envoy notices that it leaves.
    command = [*_PYTHON, "ratelimitd", "serve", "--leave-s", "0", "--listen", str(address)]
    command += ["--metrics-listen", str(metrics), *flags]
    return Part(f"ratelimitd-{number}", command, partial(_grpc_serving, address))


def admin_service(address: TcpAddress, check_target: TcpAddress, key: str) -> Part:
    """Returns the admin service, with `key` for write access."""
    command = [*_PYTHON, "ratelimitd", "admin", "--admin-listen", str(address)]
    command += ["--admin-check-target", str(check_target)]
    return Part("admin", command, partial(_http_ok, address, "/readyz"), {env_name("admin_key"): key})


def envoy(config: Path, admin: TcpAddress) -> Part:
    """Returns the Envoy with this configuration, whose admin interface is at `admin`."""
    return Part("envoy", envoy_command(config), partial(_http_ok, admin, "/ready"))


def envoy_command(config: Path) -> list[str]:
    """Returns the command that runs Envoy. Raises ChildError if this machine has no Envoy."""
    quiet = ("--log-level", "warning", "--disable-hot-restart")
    flush = ("--file-flush-interval-msec", "200")  # so that the access log soon shows a request
    return [envoy_binary(), "-c", str(config), *quiet, "--concurrency", "2", *flush]


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
                health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
