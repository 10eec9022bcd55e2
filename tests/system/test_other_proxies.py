"""The configurations of docs/proxies.md, run by the real proxies."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.client import open_client
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.required_programs import need
from tests.system.changed_front import Backend, Config, changed_front, http_filters, running_backend
from tests.system.processes import line_with, started

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("other-proxies")]

Start = Callable[[AsyncExitStack, Path, TcpAddress, Backend, str], Awaitable[httpx.AsyncClient]]
"""Starts a proxy that waits so long for a service, and forwards to a backend. Returns a client of it."""

PROXIES = Path(__file__).parents[2] / "docs" / "proxies.md"


def documented(heading: str) -> str:
    """Returns the configuration under a heading."""
    section = PROXIES.read_text().partition(f"## {heading}\n")[2]
    found = re.search(r"```\w+\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(store_url: str) -> AsyncIterator[TcpAddress]:
    """Runs the service with the example limits."""
    address = TcpAddress(LOOPBACK, free_port())
    async with open_client(store_url) as store:
        await store.flushall()
        await store.set(KEY, limits_json(global_capacity=1000, **NO_REFILL))
    flags = ("--transport", "fast", "--listen", str(address), "--leave-s", "0", "--store-timeout-ms", "1000")
    async with started("serve", *flags, env={"RATELIMITD_REDIS_URL": store_url}) as process:
        await line_with(process, '"listening"')
        yield address


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as running:
        yield running


async def answers(address: TcpAddress) -> bool:
    try:
        _, writer = await asyncio.open_connection(address.host, address.port)
    except ConnectionError:
        return False
    writer.close()
    return True


TIMEOUT, LONG = "250ms", "25s"
"""How long the documented proxies wait for a check, and how long they do where the service answers."""


def addressed(text: str, service: TcpAddress, backend: Backend, waits: str) -> str:
    """Returns a configuration with the addresses of the test, and with this timeout of checks."""
    replaced = {"ratelimitd:50051": str(service), "backend:9000": str(backend.address), TIMEOUT: waits}
    for documented_text, used in replaced.items():
        assert documented_text in text
        text = text.replace(documented_text, used)
    return text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hung() -> AsyncIterator[TcpAddress]:
    """Yields the address of a service that accepts connections, and never answers."""
    ended, connections = asyncio.Event(), set[asyncio.Task[None] | None]()

    async def wait(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(wait, LOOPBACK, 0) as server:
        yield TcpAddress(*server.sockets[0].getsockname())
        ended.set()
        await asyncio.gather(*filter(None, connections))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["nginx", "caddy", "envoy"])
async def proxy(
    request: pytest.FixtureRequest,
    service: TcpAddress,
    backend: Backend,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of a proxy that asks the service over HTTP."""
    start = {"nginx": nginx, "caddy": caddy, "envoy": envoy}[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    async with AsyncExitStack() as stack:
        yield await start(stack, folder, service, backend)


async def nginx(
    stack: AsyncExitStack,
    folder: Path,
    service: TcpAddress,
    backend: Backend,
    waits: str = LONG,
    *,
    is_open: bool = False,
) -> httpx.AsyncClient:
    """Starts nginx, whose error log is in the folder. `is_open`: requests pass while no service answers."""
    need("nginx")
    listen = TcpAddress(LOOPBACK, free_port())
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    documented_nginx = addressed(documented("nginx"), service, backend, waits)
    assert "listen 8080;" in documented_nginx
    server = documented_nginx.replace("listen 8080;", f"listen {listen};")
    if is_open:
        within, beside = re.findall(r"`([^`]*@open[^`]*)`", PROXIES.read_text())
        for line, added in (("        internal;\n", within), ("    listen", beside)):
            assert line in server
            server = server.replace(line, f"{added}\n{line}", 1)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary} {server} }}\n"
    )
    return await _started(stack, ["nginx", "-c", str(config), "-p", str(folder)], folder, listen)


async def caddy(
    stack: AsyncExitStack, folder: Path, service: TcpAddress, backend: Backend, waits: str = LONG
) -> httpx.AsyncClient:
    """Starts Caddy."""
    need("caddy")
    listen = TcpAddress(LOOPBACK, free_port())
    config = folder / "Caddyfile"
    site = f"http://{listen} {{\n{addressed(documented('Caddy'), service, backend, waits)}}}\n"
    config.write_text(f"{{\nadmin off\nauto_https off\n}}\n{site}")
    return await _started(stack, ["caddy", "run", "--config", str(config)], folder, listen)


async def _started(
    stack: AsyncExitStack, command: list[str], folder: Path, listen: TcpAddress
) -> httpx.AsyncClient:
    env = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    process = await stack.enter_async_context(child(command[0], command, folder / "log", env))
    await process.until(partial(answers, listen))
    client = httpx.AsyncClient(base_url=f"http://{listen}", trust_env=False, timeout=30)
    return await stack.enter_async_context(client)


async def envoy(
    stack: AsyncExitStack, folder: Path, service: TcpAddress, backend: Backend
) -> httpx.AsyncClient:
    """Starts the shipped Envoy configuration with `http_service` instead of `grpc_service`."""

    def over_http(config: Config) -> None:
        ext_authz = http_filters(config)["envoy.filters.http.ext_authz"]
        del ext_authz["grpc_service"]
        ext_authz |= yaml.safe_load(documented("Envoy over HTTP").replace("0.25s", LONG))

    front = changed_front(folder, over_http, replicas=[service], backend=backend.address)
    return await stack.enter_async_context(front)


async def test_three_pass_and_the_rest_get_a_denial(proxy: httpx.AsyncClient, backend: Backend) -> None:
    backend.heads.clear()
    user = {"X-User-Id": f"user-{proxy.base_url.port}"}
    replies = [await proxy.get("/api/x?q=1", headers=user) for _ in range(5)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429, 429]
    assert len(backend.heads) == 3
    denied = replies[-1]
    assert denied.json() == {"error": "rate limit exceeded"}
    assert int(denied.headers["retry-after"]) > 0
    assert denied.headers["content-type"] == "application/json"


async def test_a_client_cannot_choose_its_path_or_address(proxy: httpx.AsyncClient, store_url: str) -> None:
    hostile = {"X-Forwarded-Uri": "/other", "X-Forwarded-Method": "PUT", "X-Forwarded-For": "203.0.113.9"}
    async with open_client(store_url) as store:
        for key in await store.keys("rate:user:*"):
            await store.delete(key)
        for _ in range(2):
            await proxy.get("/api/x", headers=hostile)
        keys = set(await store.keys("rate:user:*"))
    assert keys == {b"rate:user:ip=127.0.0.1", b"rate:user:ip=127.0.0.1:api:/api/*"}


async def test_requests_for_a_websocket_are_limited(
    service: TcpAddress, backend: Backend, tmp_path: Path
) -> None:
    """Caddy asks with the header Upgrade of its client, nginx without it."""
    upgrade = {"Connection": "upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    for start in (nginx, caddy):
        folder = tmp_path / start.__name__
        folder.mkdir()
        async with AsyncExitStack() as stack:
            client = await start(stack, folder, service, backend)
            headers = upgrade | {"X-User-Id": f"ws-{start.__name__}"}
            statuses = [(await client.get("/api/x", headers=headers)).status_code for _ in range(4)]
        assert statuses == [200, 200, 200, 429], start.__name__


async def test_nginx_names_the_limits_to_clients_that_are_allowed_too(
    service: TcpAddress, backend: Backend, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        client = await nginx(stack, tmp_path, service, backend)
        replies = [await client.get("/api/x", headers={"X-User-Id": "limits"}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert ['"user_api";r=' in reply.headers["ratelimit"] for reply in replies] == [True] * 4


async def test_a_service_that_hangs_does_not_hang_the_proxy(
    hung: TcpAddress, backend: Backend, tmp_path: Path
) -> None:
    starts: dict[str, Start] = {"nginx": nginx, "caddy": caddy, "open": partial(nginx, is_open=True)}
    statuses = {}
    async with AsyncExitStack() as stack:
        for name, start in starts.items():
            folder = tmp_path / name
            folder.mkdir()
            client = await start(stack, folder, hung, backend, TIMEOUT)
            statuses[name] = (await client.get("/api/x")).status_code
    assert statuses == {"nginx": 500, "caddy": 504, "open": 200}
