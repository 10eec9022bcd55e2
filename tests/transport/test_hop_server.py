"""The server of the checks of the Envoy that hosts this process."""

import asyncio
import secrets
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from structlog.testing import capture_logs

from ratelimitd.transport.fast.hop_server import serve_hop

HEAD = b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\n"
DEFECT = b"GET /defect HTTP/1.1\r\n\r\n"
OTHER_PROCESS = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect('\\0' + sys.argv[1]); print(s.recv(9))"
)


async def answer(head: bytes, _arrived_s: float) -> bytes:
    if head == DEFECT:
        raise ZeroDivisionError
    return b"<%d>" % len(head)


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    name = f"test-{secrets.token_hex(8)}"
    async with serve_hop(name, answer):
        yield name


@asynccontextmanager
async def connected(name: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(f"\0{name}")
    yield reader, writer
    writer.close()
    await writer.wait_closed()


async def test_a_head_may_arrive_in_pieces_and_a_connection_serves_many() -> None:
    async with serving() as name, connected(name) as (reader, writer):
        for piece in (HEAD[:20], HEAD[20:-1], HEAD[-1:]):
            writer.write(piece)
            for _ in range(5):  # so that the server reads it alone
                await asyncio.sleep(0)
        assert await reader.readexactly(4) == b"<28>"
        writer.write(HEAD)
        assert await reader.readexactly(4) == b"<28>"


async def test_a_defect_becomes_a_status_and_a_line_in_the_log_and_the_connection_stays() -> None:
    with capture_logs() as logs:
        async with serving() as name, connected(name) as (reader, writer):
            writer.write(DEFECT)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 500 \r\ncontent-length: 0\r\n\r\n"
            writer.write(HEAD)
            assert await reader.readexactly(4) == b"<28>"
    assert [(line["event"], line["log_level"]) for line in logs] == [("call_failed", "error")]


async def test_many_connections_may_come_at_once_while_the_event_loop_is_busy() -> None:
    async with serving() as name:
        with ExitStack() as stack:
            others = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(300)]
            for other in others:
                other.settimeout(0)
                other.connect(f"\0{name}")
            for other in others:
                other.send(HEAD)
            loop = asyncio.get_running_loop()
            assert {await loop.sock_recv(other, 9) for other in others} == {b"<28>"}


async def test_another_process_is_refused() -> None:
    with capture_logs() as logs:
        async with serving() as name:
            other = await asyncio.create_subprocess_exec(
                sys.executable, "-c", OTHER_PROCESS, name, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            output, errors = await other.communicate()
            assert output == b"b''\n" or b"ConnectionResetError" in errors
    assert [(line["event"], line["pid"]) for line in logs] == [("hop_refused", other.pid)]


async def test_a_caller_that_leaves_does_no_harm() -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def late(_head: bytes, _arrived_s: float) -> bytes:
        arrived.set()
        await released.wait()
        return b"late"

    name = f"test-{secrets.token_hex(8)}"
    async with serve_hop(name, late):
        async with connected(name) as (_, writer):
            writer.write(HEAD)
            await arrived.wait()
        released.set()
        async with connected(name) as (reader, writer):
            writer.write(HEAD)
            assert await reader.readexactly(4) == b"late"


async def test_nobody_is_served_after_the_end() -> None:
    async with serving() as name:
        pass
    with socket.socket(socket.AF_UNIX) as other, pytest.raises(ConnectionRefusedError):
        other.connect(f"\0{name}")
