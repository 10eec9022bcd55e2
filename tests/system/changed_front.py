"""Another Envoy in front of running replicas: the shipped configuration with changes, and its own backend."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.demo import parts
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.stack import ADDRESS_HEADER
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import env_name

Config = Any
"""A part of Envoy's configuration, as in YAML."""

ONE_REQUEST = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }
}
"""Options of the backend's cluster: Envoy must not reuse a connection that the backend is about to close."""

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def connection_manager(config: Config) -> Config:
    """Returns the HTTP connection manager of the shipped configuration."""
    (listener,) = config["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def http_filters(config: Config) -> dict[str, Config]:
    """Returns the HTTP filters by name."""
    return {one["name"]: one["typed_config"] for one in connection_manager(config)["http_filters"]}


def virtual_host(config: Config) -> Config:
    """Returns the virtual host, whose first route is the limited one."""
    return connection_manager(config)["route_config"]["virtual_hosts"][0]


def unchanged(_: Config) -> None:
    """Changes nothing."""


@dataclass
class Backend:
    """An HTTP/1.1 server that answers every request with `response` and closes the connection.

    After a response of status 101 it returns all that it gets.

    `heads` are the request line and the header lines of each request.
    """

    address: TcpAddress
    response: bytes = OK
    heads: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first request of a connection without reading its body."""
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            writer.write(self.response)
            await writer.drain()
            while self.response.startswith(b"HTTP/1.1 101") and (data := await reader.read(65536)):
                writer.write(data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # Envoy closed an idle connection
        finally:
            writer.close()


@asynccontextmanager
async def running_backend() -> AsyncIterator[Backend]:
    """Runs a backend on a free port."""
    backend = Backend(TcpAddress(LOOPBACK, 0))
    server = await asyncio.start_server(backend.answer, LOOPBACK, 0, limit=1_000_000)
    async with server:
        backend.address = TcpAddress(LOOPBACK, server.sockets[0].getsockname()[1])
        yield backend


def changed_config(
    change: Callable[[Config], object],
    *,
    replicas: Sequence[TcpAddress],
    backend: TcpAddress,
    listener: TcpAddress,
    admin: TcpAddress,
) -> str:
    """Returns the shipped configuration with these addresses and a change, as YAML."""
    clusters = {"ratelimitd": replicas, "backend": [backend]}
    config = yaml.safe_load(envoy_config(listener=listener, admin=admin, clusters=clusters))
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "backend":
            cluster["typed_extension_protocol_options"] = ONE_REQUEST
    change(config)
    return yaml.safe_dump(config)


@asynccontextmanager
async def changed_front(
    folder: Path,
    change: Callable[[Config], object],
    *,
    replicas: Sequence[TcpAddress],
    backend: TcpAddress,
    inside: str | None = None,
    options: Sequence[str] = ("--",),
    store_timeout_ms: int = 200,
) -> AsyncIterator[httpx.AsyncClient]:
    """Runs an Envoy with a change and yields a client of it. Its files are in `folder`.

    With `inside`, the URL of a store, the service runs inside this Envoy, and `replicas` are not asked. Then
    `options` are more options of the command, and of Envoy after a `--`. `store_timeout_ms` should be shorter
    than Envoy's timeout of a check, and long, because a busy machine is slow.
    """
    listener, admin = TcpAddress(LOOPBACK, free_port()), TcpAddress(LOOPBACK, free_port())
    path = folder / f"envoy-{listener.port}.yaml"
    path.write_text(
        changed_config(change, replicas=replicas, backend=backend, listener=listener, admin=admin)
    )
    part = parts.envoy(path, admin)
    command, env = part.command, dict(os.environ)
    if inside is not None:
        command = [sys.executable, "-P", "-m", "ratelimitd", "envoy", "--config", str(path), *options]
        command += ["--file-flush-interval-msec", "100"]
        env |= {env_name("redis_url"): inside, env_name("address_header"): ADDRESS_HEADER}
        env |= {env_name("store_timeout_ms"): str(store_timeout_ms)}
    async with child(part.name, command, path.with_suffix(".log"), env) as process:
        await process.until(part.ready)
        async with httpx.AsyncClient(base_url=f"http://{listener}", trust_env=False, timeout=30) as client:
            yield client
