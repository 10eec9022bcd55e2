"""Tests of connecting, reconnecting and closing, on both event loops."""

import asyncio
import socket
import ssl
import struct
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.client import connector, negotiate, new_connection
from ratelimitd.store.link import (
    INTERVAL_AFTER_FAILURE_S,
    INTERVAL_AFTER_REPLY_S,
    Connection,
    Link,
)
from tests.both_loops import on_both_loops
from tests.eventually import WAIT_S, eventually
from tests.limiter.stepped_loops import on_stepped_loop, stall
from tests.self_signed import make_certificate
from tests.store.server import Clock, Server, execute, opened, opened_again, serving

SILENT_S = 0.02


@pytest.mark.parametrize("how", ["close", "abort"])
@on_both_loops
async def test_calls_on_a_broken_connection_fail_and_it_is_replaced_at_once(tmp_path: Path, how: str) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        answered = asyncio.ensure_future(execute(link, "GET", 0))
        (await server.calls(1)).write(b":0\r\n")
        assert await answered == 0
        lost = [asyncio.ensure_future(execute(link, "GET", n)) for n in (1, 2)]
        writer = await server.calls(2)
        getattr(writer if how == "close" else writer.transport, how)()
        for outcome in await asyncio.gather(*lost, return_exceptions=True):
            assert isinstance(outcome, NotConnectedError)
        await opened_again(link, 2)
        after = asyncio.ensure_future(execute(link, "GET", 3))
        command, writer = await server.call()
        writer.write(b":3\r\n")
        assert (command, await after, server.connections) == (b"GET 3", 3, 2)


@on_both_loops
async def test_calls_wait_while_connections_that_replied_are_replaced(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        for number in range(6):
            call = asyncio.ensure_future(execute(link, "GET", number))
            writer = await server.calls(1)
            writer.write(b":1\r\n")
            assert await call == 1
            writer.transport.abort()
            lost = asyncio.ensure_future(execute(link, "GET", "lost"))
            await eventually(lambda: _equal(server.closed, number + 1), "the server has closed")  # noqa: B023
            await asyncio.gather(lost, return_exceptions=True)


@on_both_loops
async def test_a_store_that_refuses_connections_is_not_called_without_end() -> None:
    starts_s: list[float] = []

    async def refuse() -> Connection:
        starts_s.append(time.monotonic())
        raise NotConnectedError("refused")

    async with Link(refuse):
        await eventually(lambda: _equal(len(starts_s) >= 4, True), "four attempts")  # noqa: FBT003
    assert all(late - early >= 0.9 * INTERVAL_AFTER_FAILURE_S for early, late in pairwise(starts_s))


@on_both_loops
async def test_an_attempt_without_an_answer_is_given_up(tmp_path: Path) -> None:
    attempts = 0

    async def connect() -> Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            await asyncio.Event().wait()
        return await connector(f"unix://{tmp_path / 's'}")()

    async with serving(tmp_path / "s"), Link(connect, silence_s=0.02, attempt_s=0.05) as link:
        await opened_again(link, 1)
    assert attempts == 2


@on_both_loops
async def test_a_store_that_replies_and_closes_is_not_called_without_end(tmp_path: Path) -> None:
    starts_s: list[float] = []

    async def connect() -> Connection:
        starts_s.append(time.monotonic())
        return await connector(f"unix://{tmp_path / 's'}")()

    async with serving(tmp_path / "s") as server, Link(connect, greeting=[("GET", 1)]):
        for _ in range(4):
            writer = await server.calls(1)
            writer.write(b":1\r\n")
            writer.close()
    assert all(late - early >= 0.9 * INTERVAL_AFTER_REPLY_S for early, late in pairwise(starts_s))


@on_both_loops
async def test_a_store_may_start_after_the_link(tmp_path: Path) -> None:
    async with opened(tmp_path / "s") as link:
        with pytest.raises(NotConnectedError, match="No such file"):
            await execute(link, "PING")
        async with serving(tmp_path / "s") as server:
            await opened_again(link, 1)
            call = asyncio.ensure_future(execute(link, "PING"))
            (await server.calls(1)).write(b"+PONG\r\n")
            assert await call == b"PONG"
            await link.aclose()


@on_both_loops
async def test_each_attempt_asks_the_factory_where_the_store_is(tmp_path: Path) -> None:
    """After a failover, for example, the second connection leads to another server."""
    paths = iter((tmp_path / "old", tmp_path / "new"))

    async def connect() -> Connection:
        return await connector(f"unix://{next(paths)}")()

    async with serving(tmp_path / "old") as old, serving(tmp_path / "new") as new:
        async with Link(connect, now_s=Clock()) as link:
            for server in (old, new):
                call = asyncio.ensure_future(execute(link, "GET", 1))
                writer = await server.calls(1)
                writer.write(b":1\r\n")
                assert await call == 1
                writer.close()
                await server.ended()
        assert (old.connections, new.connections) == (1, 1)


@on_both_loops
async def test_all_waiting_calls_share_one_attempt(tmp_path: Path) -> None:
    """Calls are sent in order, and a cancelled call keeps its place."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        calls = [asyncio.ensure_future(execute(link, "GET", n)) for n in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()
        writer = await server.calls(5)
        writer.write(b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")
        assert await asyncio.gather(*calls[1:]) == [1, 2, 3, 4]
    assert server.connections == 1


@on_both_loops
async def test_a_connection_with_a_surplus_reply_is_not_used(tmp_path: Path) -> None:
    """A surplus reply of the handshake would be taken for the first call's reply."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        server.handshake_reply = b"+OK\r\n+OK\r\n"
        with pytest.raises(NotConnectedError, match="sent an unexpected reply"):
            await execute(link, "GET", 1)


@on_both_loops
async def test_a_connection_reset_during_the_handover_is_not_used() -> None:
    """Otherwise the link would not notice the loss, and the first call would time out."""
    server = Server()
    async with await asyncio.start_server(server.accept, "localhost", 0) as listening:
        connection: Any = new_connection(f"redis://localhost:{listening.sockets[0].getsockname()[1]}")
        connect = connection.connect

        async def lost() -> bool:
            return bool(connection._writer.transport.is_closing())

        async def connect_and_lose() -> None:
            await connect()
            assert server.writer
            linger = struct.pack("ii", 1, 0)
            server.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            server.writer.transport.abort()
            await eventually(lost, "the reset arrives")

        connection.connect = connect_and_lose
        async with Link(lambda: negotiate(connection), now_s=Clock()) as link:
            with pytest.raises(NotConnectedError, match="the store closed the connection"):
                await execute(link, "GET", 1)
    await server.ended()


@on_both_loops
async def test_an_attempt_outlasts_the_calls_that_wait_for_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", silence_s=SILENT_S) as link:
        server.ready.clear()
        for _ in range(2):
            with pytest.raises(NotConnectedError, match="no connection within 20 ms"):
                await execute(link, "GET", 0)
        server.ready.set()
        call = asyncio.ensure_future(execute(link, "GET", 1))
        command, writer = await server.call()
        writer.write(b":1\r\n")
        assert (command, await call, server.connections) == (b"GET 1", 1, 1)


@on_stepped_loop
async def test_each_call_waits_equally_long_for_a_connection() -> None:
    """A call that came late does not fail with those that came before."""

    async def connect() -> Connection:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never

    async with Link(connect, silence_s=30) as link:
        early = asyncio.ensure_future(execute(link, "GET", 1))
        await asyncio.sleep(0)
        stall(20)
        late = asyncio.ensure_future(execute(link, "GET", 2))
        await asyncio.sleep(0)
        stall(15)
        with pytest.raises(NotConnectedError, match="no connection within 30000 ms"):
            await early
        assert not late.done()
        stall(20)
        with pytest.raises(NotConnectedError, match="no connection within 30000 ms"):
            await late


@on_both_loops
async def test_a_link_connects_and_reconnects_without_a_call(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        for connections in (1, 2):
            await opened_again(link, connections)
            await eventually(lambda: _equal(server.connections, connections), "the server accepts")  # noqa: B023
            assert server.writer is not None
            server.writer.close()
        await opened_again(link, 3)


async def _equal(one: object, other: object) -> bool:
    return one == other


@on_both_loops
async def test_an_idle_connection_is_kept_in_use(tmp_path: Path) -> None:
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock, keepalive_s=0.01) as link:
        await opened_again(link, 1)
        for reply in (b"+PONG\r\n", b"-NOPERM this user has no permissions to run 'ping'\r\n"):
            clock.now_s += 0.02
            command, writer = await server.call()
            assert command == b"PING"
            writer.write(reply)
            await clock.was_read(1)  # else the connection would be idle since the clock's next step
        call = asyncio.ensure_future(execute(link, "GET", 1))
        (await server.calls(1)).write(b":1\r\n")
        assert await call == 1
    assert server.connections == 1


@on_both_loops
async def test_an_idle_connection_that_is_dead_is_replaced(tmp_path: Path) -> None:
    """A NAT or a load balancer may drop a connection without notice."""
    clock = Clock()
    async with (
        serving(tmp_path / "s") as server,
        opened(tmp_path / "s", clock, SILENT_S, keepalive_s=0.01) as link,
    ):
        await opened_again(link, 1)
        clock.now_s += 1
        assert (await server.call())[0] == b"PING"
        clock.now_s += SILENT_S
        await opened_again(link, 2)


@pytest.mark.parametrize("reply", [b"+OK\r\n", b"-NOPERM this user has no permissions\r\n"])
@on_both_loops
async def test_a_greeting_comes_first_on_every_connection(tmp_path: Path, reply: bytes) -> None:
    """The link is settled once the greeting has a reply, whatever that is."""
    greeting = [("SCRIPT", "LOAD", "return 1")]
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", greeting=greeting) as link:
        settled = asyncio.ensure_future(link.settled())
        for connections in (1, 2):
            call = asyncio.ensure_future(execute(link, "GET", 1))
            command, writer = await server.call()
            assert command == b"SCRIPT LOAD return 1"
            assert (await server.call())[0] == b"GET 1"
            assert settled.done() == (connections == 2)
            writer.write(reply + b":1\r\n")
            assert await call == 1
            await settled
            if connections == 1:
                writer.close()
                await eventually(lambda: _equal(server.closed, 1), "the link closes its end")


@on_both_loops
async def test_a_link_without_a_store_is_settled_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path / "none") as link:
        await link.settled()
        with pytest.raises(NotConnectedError, match="No such file"):
            await execute(link, "PING")


@on_stepped_loop
async def test_a_link_with_a_silent_store_is_settled_in_time() -> None:
    async def connect() -> Connection:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never

    async with Link(connect, silence_s=30) as link:
        settled = asyncio.ensure_future(link.settled())
        await asyncio.sleep(0)
        stall(31)
        await settled


@on_both_loops
async def test_a_renewed_link_keeps_its_calls_and_sends_the_next_on_the_new_connection(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        first = asyncio.ensure_future(execute(link, "GET", 1))
        command, old = await server.call()
        assert command == b"GET 1"
        renewal = asyncio.ensure_future(link.renew())
        await opened_again(link, 2)
        drain, same = await server.call()
        assert (drain, same) == (b"PING", old)
        second = asyncio.ensure_future(execute(link, "GET", 2))
        command, new = await server.call()
        new.write(b":2\r\n")
        assert (command, await second) == (b"GET 2", 2)
        assert new is not old
        old.write(b":1\r\n+PONG\r\n")
        assert await first == 1
        await renewal
        assert (server.connections, link.opened) == (2, 2)
        await eventually(lambda: _equal(server.closed, 1), "the old connection is closed")


@on_both_loops
async def test_a_renewal_that_fails_leaves_the_connection_in_use(tmp_path: Path) -> None:
    attempts = 0

    async def connect() -> Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            raise NotConnectedError("refused")
        return await connector(f"unix://{tmp_path / 's'}")()

    async with serving(tmp_path / "s") as server, Link(connect, now_s=Clock(), silence_s=WAIT_S) as link:
        await opened_again(link, 1)
        with pytest.raises(NotConnectedError, match="refused"):
            await link.renew()
        call = asyncio.ensure_future(execute(link, "GET", 1))
        (await server.calls(1)).write(b":1\r\n")
        assert (await call, server.connections, attempts) == (1, 1, 2)


@on_both_loops
async def test_a_connection_that_ends_during_its_renewal_is_replaced_once(tmp_path: Path) -> None:
    attempts, ended = 0, asyncio.Event()

    async def connect() -> Connection:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            await ended.wait()
        return await connector(f"unix://{tmp_path / 's'}")()

    async with serving(tmp_path / "s") as server, Link(connect, now_s=Clock(), silence_s=WAIT_S) as link:
        await opened_again(link, 1)
        call = asyncio.ensure_future(execute(link, "GET", 1))
        writer = await server.calls(1)
        writer.write(b":1\r\n")
        assert await call == 1
        renewal = asyncio.ensure_future(link.renew())
        await eventually(lambda: _equal(attempts, 2), "the renewal connects")
        writer.close()
        await opened_again(link, 2)
        ended.set()
        await renewal
        call = asyncio.ensure_future(execute(link, "GET", 2))
        (await server.calls(1)).write(b":2\r\n")
        assert (await call, link.opened) == (2, 2)
        await eventually(lambda: _equal(server.closed, 2), "the surplus connection is closed")


@on_both_loops
async def test_closing_fails_the_calls_in_flight_and_all_later_ones(tmp_path: Path) -> None:
    clock = Clock()
    async with serving(tmp_path / "s") as server:
        async with opened(tmp_path / "s", clock) as link:
            call = asyncio.ensure_future(execute(link, "GET", 1))
            await server.calls(1)
        clock.now_s += 1
        for late in (call, execute(link, "GET", 2)):
            with pytest.raises(NotConnectedError, match="the link is closed"):
                await late
        await server.ended()
    assert server.connections == 1


@on_both_loops
async def test_closing_cancels_an_attempt_that_has_not_begun(tmp_path: Path) -> None:
    link = opened(tmp_path / "s")
    heard: list[object] = []
    link.call(("GET", 1), heard.append)
    await link.aclose()
    assert [str(error) for error in heard] == ["the link is closed"]
    with pytest.raises(NotConnectedError, match="the link is closed"):
        await execute(link, "GET", 2)


@on_both_loops
async def test_closing_cancels_an_attempt(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server:
        async with opened(tmp_path / "s") as link:
            server.ready.clear()
            call = asyncio.ensure_future(execute(link, "GET", 1))

            async def greeted() -> bool:
                return bool(server.handshake)

            await eventually(greeted, "the link connects")
        with pytest.raises(NotConnectedError, match="the link is closed"):
            await call


@on_both_loops
async def test_the_url_sets_user_password_and_database(store_url: str) -> None:
    address = store_url.removeprefix("redis://").removesuffix("/0")
    async with Link(connector(store_url)) as admin:
        await execute(admin, "ACL", "SETUSER", "linkuser", "on", ">p@ss/word", "~*", "+@all")
        try:
            async with Link(connector(f"redis://linkuser:p%40ss%2Fword@{address}/3")) as link:
                assert await execute(link, "ACL", "WHOAMI") == b"linkuser"
                me = (await execute(link, "CLIENT", "INFO")).split()
                assert {b"db=3", b"name=ratelimitd", b"resp=2"} <= set(me)
            async with Link(connector(f"redis://linkuser:wrong@{address}/3")) as link:
                with pytest.raises(NotConnectedError, match="invalid username-password"):
                    await execute(link, "PING")
        finally:
            await execute(admin, "ACL", "DELUSER", "linkuser")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a self-signed certificate for localhost; certificate and key are in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    made, key = make_certificate(path.parent, "localhost")
    path.write_text(made.read_text() + key.read_text())
    return path


@on_both_loops
async def test_tls(certificate: Path) -> None:
    """Tests calls, a reconnect, and a certificate that cannot be verified."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server = Server()
    async with await asyncio.start_server(server.accept, "localhost", 0, ssl=context) as listening:
        url = f"rediss://:secret@localhost:{listening.sockets[0].getsockname()[1]}/2"
        async with Link(connector(f"{url}?ssl_ca_certs={certificate}"), now_s=Clock()) as link:
            for attempt in (1, 2):
                answered = asyncio.gather(*(execute(link, "GET", n) for n in range(50)))
                writer = await server.calls(50)
                writer.write(b"".join(b":%d\r\n" % n for n in range(50)))
                assert await answered == list(range(50))
                assert writer.get_extra_info("sslcontext")
                assert server.handshake[0] == b"AUTH secret"
                assert server.connections == attempt
                lost = asyncio.ensure_future(execute(link, "GET", 50))
                await server.calls(1)
                writer.close()
                with pytest.raises(NotConnectedError):
                    await lost
        async with Link(connector(url), now_s=Clock()) as link:
            with pytest.raises(NotConnectedError, match="certificate verify failed"):
                await execute(link, "PING")
    await server.ended()
