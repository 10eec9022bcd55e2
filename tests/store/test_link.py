"""The link on a real store, and against a server that does what a store must not do. On both event loops."""

import asyncio
import inspect
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hiredis import Reader
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.client import connector, negotiate, new_connection
from ratelimitd.store.link import Connection, Link
from tests.limiters import told
from tests.programs import need
from tests.waiting import WAIT_S, eventually


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on asyncio's own loop and on uvloop's, on which the hosted transport runs.

    Nothing may reach the loop's own handler of errors.
    """

    def run(*, new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        strays: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, stray: strays.append(stray))
            # pytest-timeout cannot wake uvloop.
            runner.run(asyncio.wait_for(test(**fixtures), WAIT_S))
        assert strays == []

    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    fixtures = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(test).parameters.values()
    ]
    run.__signature__ = inspect.Signature([*fixtures, loop])  # type: ignore[attr-defined] # pytest reads it
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.pytestmark = list(getattr(test, "pytestmark", ()))  # type: ignore[attr-defined] # and this
    on_each = pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    both: Callable[..., None] = on_each(run)
    return both


SILENT_S = 0.02


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._looks = 0

    def __call__(self) -> float:
        """The instant."""
        self._looks += 1
        return self.now_s

    async def looked_at(self, times: int) -> None:
        """Returns once it was asked so many times more."""
        looks = self._looks + times

        async def enough() -> bool:
            return self._looks >= looks

        await eventually(enough, "somebody looks at the clock")


class Server:
    """Shakes hands as a store does. Every other command is a call, which the test answers, or not."""

    def __init__(self) -> None:
        self.connections = 0
        self.ready = asyncio.Event()
        self.ready.set()
        self.greeting = b"+OK\r\n"
        self.heard: list[bytes] = []
        self.lost = 0
        self.writer: asyncio.StreamWriter | None = None
        self._calls: asyncio.Queue[tuple[bytes, asyncio.StreamWriter]] = asyncio.Queue()
        self._talks: set[asyncio.Task[None]] = set()

    async def call(self) -> tuple[bytes, asyncio.StreamWriter]:
        """The next call's command, and where to answer it."""
        return await self._calls.get()

    async def calls(self, number: int) -> asyncio.StreamWriter:
        """Where to answer, once that many calls have come."""
        for _ in range(number):
            _, writer = await self.call()
        return writer

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.writer = writer
        talk = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._talks.add(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Reader()
        with suppress(ConnectionError):
            while received := await reader.read(65536):
                commands.feed(received)
                while (command := commands.gets()) is not False:
                    if command[0] in (b"AUTH", b"CLIENT", b"SELECT"):
                        self.heard.append(b" ".join(command))
                        await self.ready.wait()
                        writer.write(self.greeting)
                    else:
                        self._calls.put_nowait((b" ".join(command), writer))
        self.lost += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def ended(self) -> None:
        """Once every connection is gone; what a test's link leaves open hangs here."""
        self.ready.set()
        await asyncio.gather(*self._talks)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Server]:
    """A server behind a Unix socket."""
    server = Server()
    async with await asyncio.start_unix_server(server.accept, path):
        yield server
    await server.ended()


def opened(path: Path, clock: Callable[[], float] | None = None, silence_s: float = WAIT_S) -> Link:
    """A link to that Unix socket, whose clock stands still."""
    return Link(connector(f"unix://{path}"), now_s=clock or Clock(), silence_s=silence_s)


async def execute(link: Link, *arguments: Any) -> Any:
    """The reply to one command. Raises the error that came instead."""
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.call(arguments, lambda answer: told(reply, answer))
    return await reply


@on_both_loops
async def test_each_of_many_callers_gets_its_own_reply(store_url: str) -> None:
    """A thousand at once, on one connection, with replies longer than any buffer among them."""

    async def echo(n: int) -> bool:
        text = f"{n}," * (40_000 if n % 250 == 0 else 1)
        return bool(await execute(link, "ECHO", text) == text.encode())

    async with Link(connector(store_url)) as link:
        assert all(await asyncio.gather(*(echo(n) for n in range(1000))))
        connections = (await execute(link, "CLIENT", "LIST")).count(b"cmd=client|list")
    assert connections == 1


@on_both_loops
async def test_replies_may_come_in_pieces(tmp_path: Path) -> None:
    """Where a packet ends means nothing."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        calls = asyncio.gather(*(execute(link, "GET", n, 0.5, b"x", "y") for n in range(3)))
        command, writer = await server.call()
        assert command == b"GET 0 0.5 x y"
        await server.calls(2)
        writer.write(b"$3\r\none\r\n*2\r\n:1\r\n")
        first = asyncio.ensure_future(execute(link, "GET", 3))  # hears of nothing until the rest is there
        await server.call()
        writer.write(b":2\r\n$-1\r\n+four\r\n")
        assert await calls == [b"one", [1, 2], None]
        assert await first == b"four"


@on_both_loops
async def test_a_caller_who_left_keeps_its_place(tmp_path: Path) -> None:
    """Its reply is thrown away, and nobody else gets it."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        one, two, three = (asyncio.ensure_future(execute(link, "GET", n)) for n in range(3))
        writer = await server.calls(3)
        two.cancel()
        await asyncio.wait((two,))
        writer.write(b"+one\r\n+two\r\n+three\r\n")
        assert (await one, await three) == (b"one", b"three")
        assert two.cancelled()
    assert server.connections == 1


@pytest.mark.parametrize("how", ["close", "abort"])
@on_both_loops
async def test_a_broken_connection_fails_its_calls_and_the_next_call_gets_a_new_one(
    tmp_path: Path, how: str
) -> None:
    """The calls in flight are not sent again: the store may have carried them out."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        answered = asyncio.ensure_future(execute(link, "GET", 0))
        (await server.calls(1)).write(b":0\r\n")
        assert await answered == 0
        lost = [asyncio.ensure_future(execute(link, "GET", n)) for n in (1, 2)]
        writer = await server.calls(2)
        getattr(writer if how == "close" else writer.transport, how)()
        for outcome in await asyncio.gather(*lost, return_exceptions=True):
            assert isinstance(outcome, NotConnectedError)
        after = asyncio.ensure_future(execute(link, "GET", 3))
        command, writer = await server.call()
        writer.write(b":3\r\n")
        assert (command, await after, server.connections) == (b"GET 3", 3, 2)


@on_both_loops
async def test_opening_needs_no_store(tmp_path: Path) -> None:
    """The first call says that there is none; it may come."""
    clock = Clock()
    async with opened(tmp_path / "s", clock) as link:
        with pytest.raises(NotConnectedError, match="No such file"):
            await execute(link, "PING")
        clock.now_s += 1
        async with serving(tmp_path / "s") as server:
            call = asyncio.ensure_future(execute(link, "PING"))
            (await server.calls(1)).write(b"+PONG\r\n")
            assert await call == b"PONG"
            await link.aclose()


@on_both_loops
async def test_each_attempt_asks_the_factory_where_the_store_is(tmp_path: Path) -> None:
    """As after a failover: the second connection leads to another server than the first."""
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
async def test_failed_attempts_come_ever_more_slowly(tmp_path: Path) -> None:
    """50 ms, doubling to a second. In between calls fail at once, with the reason of the last attempt."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock) as link:
        server.greeting = b"-ERR not today\r\n"
        for attempt, pause_s in enumerate((0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0), start=1):
            with pytest.raises(NotConnectedError, match="not today"):
                await execute(link, "PING")
            assert server.connections == attempt
            clock.now_s += pause_s - 0.001
            with pytest.raises(NotConnectedError, match="not today"):
                await execute(link, "PING")
            assert server.connections == attempt
            clock.now_s += 0.002


@on_both_loops
async def test_an_answer_ends_the_slowness(tmp_path: Path) -> None:
    """A connection that had answered is replaced at once, and the first pause is the short one again."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock) as link:
        server.greeting = b"-ERR not today\r\n"
        for _ in range(4):
            with pytest.raises(NotConnectedError):
                await execute(link, "PING")
            clock.now_s += 1
        server.greeting = b"+OK\r\n"
        call = asyncio.ensure_future(execute(link, "PING"))
        writer = await server.calls(1)
        writer.write(b"+PONG\r\n")
        await call
        server.greeting = b"-ERR not today\r\n"
        writer.close()

        async def noticed() -> bool:
            return server.lost == server.connections

        await eventually(noticed, "the link closes its end")
        for attempts in (6, 7):
            with pytest.raises(NotConnectedError):
                await execute(link, "PING")
            assert server.connections == attempts
            clock.now_s += 0.05


@on_both_loops
async def test_one_attempt_for_all_who_wait(tmp_path: Path) -> None:
    """Their calls go in their order, also that of one who left meanwhile."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        calls = [asyncio.ensure_future(execute(link, "GET", n)) for n in range(5)]
        await asyncio.sleep(0)
        calls[0].cancel()
        writer = await server.calls(5)
        writer.write(b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")
        assert await asyncio.gather(*calls[1:]) == [1, 2, 3, 4]
    assert server.connections == 1


@pytest.mark.parametrize(
    ("reply", "kind", "connections"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", NoScriptError, 1),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ResponseError, 1),
        ("OOM command not allowed when used memory > 'maxmemory'.", ResponseError, 1),
        ("MOVED 3999 127.0.0.1:6381", ResponseError, 1),
        ("\udcff no UTF-8", ResponseError, 1),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError, 2),
        ("READONLY You can't write against a read only replica.", ReadOnlyError, 2),
        ("NOAUTH Authentication required.", AuthenticationError, 2),
    ],
)
@on_both_loops
async def test_a_refusal_is_the_error_that_redis_py_has_for_it(
    tmp_path: Path, reply: str, kind: type[RedisError], connections: int
) -> None:
    """And it belongs to one call. What another connection may mend gets one, after a pause."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock) as link:
        refused = asyncio.ensure_future(execute(link, "GET", 1))
        (await server.calls(1)).write(b"-" + reply.encode(errors="surrogateescape") + b"\r\n")
        with pytest.raises(kind):
            await refused
        if connections > 1:
            with pytest.raises(NotConnectedError):
                await execute(link, "GET", 2)
            clock.now_s += 0.05
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert await after == 3
    assert server.connections == connections


@pytest.mark.parametrize("reply", [b"-READONLY it became a replica\r\n", b"?what\r\n"])
@on_both_loops
async def test_calls_that_end_with_the_connection_are_told_once(tmp_path: Path, reply: bytes) -> None:
    """Though there are replies for both: after the first nothing of it is believed."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        heard: list[list[object]] = [[], []]
        for n, answers in enumerate(heard):
            link.call(("GET", n), answers.append)
        (await server.calls(2)).write(reply * 2)

        async def both_heard() -> bool:
            return all(heard)

        await eventually(both_heard, "both are told")
    assert [len(answers) for answers in heard] == [1, 1]
    assert all(isinstance(answer, RedisError) for (answer,) in heard)


@pytest.mark.parametrize(
    "garbage",
    [
        b"?what\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"-MOVED\r\n",
        b":one\r\n",
        b"*-5\r\n",
        b":1\r\n:2\r\n:3\r\n",
    ],
)
@on_both_loops
async def test_garbage_ends_the_connection(tmp_path: Path, garbage: bytes) -> None:
    """Also one reply too many: after that nobody could know whose is whose."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock) as link:
        calls = asyncio.gather(*(execute(link, "GET", n) for n in (1, 2)), return_exceptions=True)
        (await server.calls(2)).write(garbage)
        outcomes = await calls
        assert all(isinstance(outcome, NotConnectedError) for outcome in outcomes) or outcomes == [1, 2]

        async def noticed() -> bool:
            return server.lost == 1

        await eventually(noticed, "the link closes the connection")
        clock.now_s += 1
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert (await after, server.connections) == (3, 2)


@on_both_loops
async def test_a_store_that_says_more_than_it_was_asked_is_not_used(tmp_path: Path) -> None:
    """What it said in excess while connecting would be taken for the first call's reply."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        server.greeting = b"+OK\r\n+OK\r\n"
        with pytest.raises(NotConnectedError, match="sent an unexpected reply"):
            await execute(link, "GET", 1)


@on_both_loops
async def test_a_connection_that_is_reset_before_it_is_taken_over_is_not_used() -> None:
    """Nobody would be told of its loss any more, and the first call would wait for nothing."""
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
async def test_a_silent_connection_is_ended(tmp_path: Path) -> None:
    """Not before its time. All in flight fail, and the next call gets a new connection."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock, SILENT_S) as link:
        answered = asyncio.ensure_future(execute(link, "GET", 0))
        (await server.calls(1)).write(b":0\r\n")
        await answered
        clock.now_s += 3600  # idle is not silent
        one = asyncio.ensure_future(execute(link, "GET", 1))
        await server.calls(1)
        clock.now_s += SILENT_S - 0.001
        two = asyncio.ensure_future(execute(link, "GET", 2))
        await server.calls(1)  # what is said to it breaks no silence
        await clock.looked_at(2)
        assert not one.done()
        clock.now_s += 0.002
        for silent in (one, two):
            with pytest.raises(NotConnectedError, match="the store was silent for 20 ms"):
                await silent
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert (await after, server.connections) == (3, 2)


@on_both_loops
async def test_a_slow_connection_is_kept(tmp_path: Path) -> None:
    """While replies come, the store is behind but there: another connection would not be faster."""
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock, SILENT_S) as link:
        calls = [asyncio.ensure_future(execute(link, "GET", n)) for n in range(5)]
        writer = await server.calls(5)
        for n, call in enumerate(calls):
            clock.now_s += SILENT_S - 0.001
            await clock.looked_at(2)
            writer.write(b":%d\r\n" % n)
            assert await call == n
    assert server.connections == 1


@on_both_loops
async def test_an_attempt_outlasts_those_who_wait_for_it(tmp_path: Path) -> None:
    """They are told in time, and whoever comes later gets the connection."""
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


@on_both_loops
async def test_closing_fails_the_calls_in_flight_and_all_later_ones(tmp_path: Path) -> None:
    """The server sees the end of it."""
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
async def test_closing_ends_an_attempt_that_has_not_begun(tmp_path: Path) -> None:
    """Who waits for it hears why, and who comes later."""
    link = opened(tmp_path / "s")
    heard: list[object] = []
    link.call(("GET", 1), heard.append)
    await link.aclose()
    assert [str(error) for error in heard] == ["the link is closed"]
    with pytest.raises(NotConnectedError, match="the link is closed"):
        await execute(link, "GET", 2)


@on_both_loops
async def test_closing_ends_an_attempt(tmp_path: Path) -> None:
    """Who waited for it hears why."""
    async with serving(tmp_path / "s") as server:
        async with opened(tmp_path / "s") as link:
            server.ready.clear()
            call = asyncio.ensure_future(execute(link, "GET", 1))

            async def greeted() -> bool:
                return bool(server.heard)

            await eventually(greeted, "the link connects")
        with pytest.raises(NotConnectedError, match="the link is closed"):
            await call


@on_both_loops
async def test_the_url_says_user_password_and_database(store_url: str) -> None:
    """As it does for redis-py, which negotiates. The connection bears our name."""
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
    """A self-signed certificate for localhost and its key, in one file that lives as long as the tests."""
    need("openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key, made = path.with_name("key.pem"), path.with_name("certificate.pem")
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "1"),
            *("-keyout", key, "-out", made),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(made.read_text() + key.read_text())
    return path


@on_both_loops
async def test_tls(certificate: Path) -> None:
    """The same, encrypted: calls, a broken connection, the next one, and a store that nobody vouches for."""
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
                assert server.heard[0] == b"AUTH secret"
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
