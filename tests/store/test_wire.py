"""Tests of calls and replies on one connection, on both event loops."""

import asyncio
from pathlib import Path

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.client import connector
from ratelimitd.store.link import Link
from tests.both_loops import on_both_loops
from tests.eventually import eventually
from tests.store.server import Clock, execute, opened, opened_again, serving

SILENT_S = 0.02


@on_both_loops
async def test_each_of_many_callers_gets_its_own_reply(store_url: str) -> None:
    """1000 calls share one connection, and a few replies are larger than any buffer."""

    async def echo(n: int) -> bool:
        text = f"{n}," * (40_000 if n % 250 == 0 else 1)
        return bool(await execute(link, "ECHO", text) == text.encode())

    async with Link(connector(store_url)) as link:
        assert all(await asyncio.gather(*(echo(n) for n in range(1000))))
        connections = (await execute(link, "CLIENT", "LIST")).count(b"cmd=client|list")
    assert connections == 1


@on_both_loops
async def test_replies_may_arrive_in_pieces(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        calls = asyncio.gather(*(execute(link, "GET", n, 0.5, b"x", "y") for n in range(3)))
        command, writer = await server.call()
        assert command == b"GET 0 0.5 x y"
        await server.calls(2)
        writer.write(b"$3\r\none\r\n*2\r\n:1\r\n")
        first = asyncio.ensure_future(execute(link, "GET", 3))  # its reply comes after the rest
        await server.call()
        writer.write(b":2\r\n$-1\r\n+four\r\n")
        assert await calls == [b"one", [1, 2], None]
        assert await first == b"four"


@on_both_loops
async def test_the_reply_to_a_cancelled_call_is_discarded(tmp_path: Path) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        one, two, three = (asyncio.ensure_future(execute(link, "GET", n)) for n in range(3))
        writer = await server.calls(3)
        two.cancel()
        await asyncio.wait((two,))
        writer.write(b"+one\r\n+two\r\n+three\r\n")
        assert (await one, await three) == (b"one", b"three")
        assert two.cancelled()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("reply", "kind", "connections"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", NoScriptError, 1),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", ResponseError, 1),
        ("OOM command not allowed when used memory > 'maxmemory'.", ResponseError, 1),
        ("MOVED 3999 127.0.0.1:6381", ResponseError, 1),
        ("CROSSSLOT Keys in request don't hash to the same slot", ResponseError, 1),
        ("NOPERM this user has no permissions to run the 'time' command", ResponseError, 1),
        ("MISCONF Redis is configured to save RDB snapshots", ResponseError, 1),
        ("\udcff no UTF-8", ResponseError, 1),
        ("LOADING Redis is loading the dataset in memory", BusyLoadingError, 2),
        ("READONLY You can't write against a read only replica.", ReadOnlyError, 2),
        ("NOAUTH Authentication required.", AuthenticationError, 2),
        ("MASTERDOWN Link with MASTER is down.", MasterDownError, 2),
        # Redis 6 reports so what a command of a script meets.
        ("ERR Error running script (call to f_0): @user_script: 9: -READONLY You can't", ReadOnlyError, 2),
        ("ERR Error running script (call to f_0): @user_script: 9: -MASTERDOWN Link", MasterDownError, 2),
        ("ERR Error running script (call to f_0): @user_script: 9: -OOM command not", ResponseError, 1),
    ],
)
@on_both_loops
async def test_a_refusal_becomes_redis_pys_error(
    tmp_path: Path, reply: str, kind: type[RedisError], connections: int
) -> None:
    """Its text has Redis's code. An error that makes the connection useless also closes it."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        refused = asyncio.ensure_future(execute(link, "GET", 1))
        (await server.calls(1)).write(b"-" + reply.encode(errors="surrogateescape") + b"\r\n")
        with pytest.raises(kind, match="^" + (reply.split(maxsplit=1)[0] if reply.isascii() else "")):
            await refused
        await opened_again(link, connections)
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert await after == 3
    assert server.connections == connections


@pytest.mark.parametrize("reply", [b"-READONLY it became a replica\r\n", b"?what\r\n"])
@on_both_loops
async def test_each_callback_is_called_once_when_the_connection_ends(tmp_path: Path, reply: bytes) -> None:
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        heard: list[list[object]] = [[], []]
        for n, answers in enumerate(heard):
            link.call(("GET", n), answers.append)
        (await server.calls(2)).write(reply * 2)

        async def both_heard() -> bool:
            return all(heard)

        await eventually(both_heard, "both callbacks are called")
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
    """After a surplus reply, replies can no longer be matched to calls."""
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s") as link:
        calls = asyncio.gather(*(execute(link, "GET", n) for n in (1, 2)), return_exceptions=True)
        (await server.calls(2)).write(garbage)
        outcomes = await calls
        assert all(isinstance(outcome, NotConnectedError) for outcome in outcomes) or outcomes == [1, 2]

        await opened_again(link, 2)
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert (await after, server.connections) == (3, 2)


@on_both_loops
async def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
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
        await server.calls(1)  # a call does not end the silence, only a reply does
        await clock.was_read(2)
        assert not one.done()
        clock.now_s += 0.002
        for silent in (one, two):
            with pytest.raises(NotConnectedError, match="the store was silent for 20 ms"):
                await silent
        await opened_again(link, 2)
        after = asyncio.ensure_future(execute(link, "GET", 3))
        (await server.calls(1)).write(b":3\r\n")
        assert (await after, server.connections) == (3, 2)


@on_both_loops
async def test_a_slow_connection_is_kept_while_replies_arrive(tmp_path: Path) -> None:
    clock = Clock()
    async with serving(tmp_path / "s") as server, opened(tmp_path / "s", clock, SILENT_S) as link:
        calls = [asyncio.ensure_future(execute(link, "GET", n)) for n in range(5)]
        writer = await server.calls(5)
        for n, call in enumerate(calls):
            clock.now_s += SILENT_S - 0.001
            await clock.was_read(2)
            writer.write(b":%d\r\n" % n)
            assert await call == n
    assert server.connections == 1
