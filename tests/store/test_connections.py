"""Tests of the handshake, and of connections to a name whose first addresses are dead."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
from aiohappyeyeballs import AddrInfoType
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.errors import StoreError
from ratelimitd.process.loopback import free_port
from ratelimitd.store import connections
from ratelimitd.store.client import connector, new_connection, open_client, refuse_unsupported
from ratelimitd.store.link import Link
from tests.both_loops import on_both_loops
from tests.store.server import execute, opened, serving
from tests.system import command

DEAD = "127.0.0.2"
LIVE = "127.0.0.1"


@contextmanager
def black_hole(port: int) -> Iterator[None]:
    """Makes DEAD answer nothing on a port: once its backlog is full, the kernel drops further attempts."""
    with ExitStack() as stack:
        stack.enter_context(socket.create_server((DEAD, port), backlog=0))
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect((DEAD, port))
            except TimeoutError:
                break
        yield


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Makes every name resolve to these addresses, in this order."""

    async def found(_: str, port: int) -> list[AddrInfoType]:
        return [_address(address, port) for address in addresses]

    monkeypatch.setattr(connections, "addresses_of", found)


def _address(address: str, port: int) -> AddrInfoType:
    if ip_address(address).version == 6:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))


@pytest.fixture
def port(store_url: str) -> Iterator[int]:
    """Yields the port of a store at LIVE that answers nothing at DEAD."""
    port = int(store_url.removesuffix("/0").rpartition(":")[2])
    with black_hole(port):
        yield port


@on_both_loops
async def test_the_link_passes_over_dead_addresses(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, DEAD, DEAD, LIVE)
    async with Link(connector(f"redis://store:{port}")) as link:
        assert await execute(link, "PING") == b"PONG"


@on_both_loops
async def test_the_client_passes_over_an_address_that_refuses(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, DEAD, "::1", LIVE)
    async with open_client(f"redis://store:{port}") as client:
        assert await client.ping()


async def test_a_command_passes_over_a_dead_address(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, DEAD, LIVE)
    done = await command.run("policy", "status", "--redis-url", f"redis://store:{port}")
    assert (done.status, done.err) == (0, "")


@on_both_loops
async def test_a_store_may_refuse_the_optional_commands_of_the_handshake(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server:
        server.handshake_reply = b"-ERR unknown command\r\n"
        async with opened(tmp_path / "s") as link:
            reply = asyncio.ensure_future(execute(link, "GET", 1))
            (await server.calls(1)).write(b":1\r\n")
            assert await reply == 1
        assert server.handshake == [b"CLIENT SETNAME ratelimitd", b"HELLO", b"INFO"]


async def test_a_database_that_the_store_does_not_have_is_refused(store_url: str) -> None:
    with pytest.raises(StoreError, match=r"^the store cannot be used: ERR .* \(database 99 of the URL\)$"):
        await refuse_unsupported(store_url.removesuffix("0") + "99")


@on_both_loops
async def test_an_attempt_without_a_live_address_ends_within_its_timeout(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, DEAD)
    connection = new_connection(f"redis://store:{port}?socket_connect_timeout=0.1")
    with pytest.raises(NotConnectedError, match=f"^no connection to store:{port} within 0.1 s$"):
        await connection.connect()  # type: ignore[no-untyped-call] # it is untyped


@on_both_loops
async def test_a_server_without_tls_is_named(store_url: str) -> None:
    connection = new_connection(f"{store_url.replace('redis:', 'rediss:')}?socket_connect_timeout=0.1")
    with pytest.raises(NotConnectedError, match=r"^no TLS connection to 127\.0\.0\.1:\d+ within 0\.1 s$"):
        await connection.connect()  # type: ignore[no-untyped-call] # it is untyped


@on_both_loops
async def test_the_error_of_an_attempt_names_the_host_and_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "127.0.0.3", "::1")
    connection = new_connection(f"redis://store:{free_port()}")
    with pytest.raises(NotConnectedError, match=r"connecting to store:\d+.*127\.0\.0\.3"):
        await connection.connect()  # type: ignore[no-untyped-call] # it is untyped
