"""Calls that only a faulty or hostile peer makes, to each transport. Each ends, and harms no other call."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

from fuzz import wire
from ratelimitd.transport import grpcio_server
from ratelimitd.transport.fast.framing import frame
from tests.core.fakes import OracleLimiter
from tests.eventually import eventually
from tests.transport.conftest import Service, channel_to, serve_in_process
from tests.transport.http2 import exchange
from tests.transport.test_conformance import CHECK, check_request, method_of

MESSAGE = frame(bytes(check_request()))


async def assert_decides(service: Service) -> None:
    """Asserts that a call over a new connection is decided."""
    assert (await exchange(service.address, [MESSAGE])).status == 0


async def test_a_path_that_is_not_ascii_is_unimplemented(service: Service) -> None:
    surrogate = b"\xed\xa0\x80"  # UTF-8 does not encode it
    for path in (
        CHECK.encode()[:-1] + b"\x92",
        CHECK.encode() + surrogate,
        CHECK.encode() + b"?\x92",
        b"/%92",
        b"/%zz",
        b"/caf\xc3\xa9",
    ):
        assert (await exchange(service.address, [MESSAGE], path=path)).status == 12, path
    await assert_decides(service)


async def test_header_values_that_are_not_ascii_are_accepted(service: Service) -> None:
    reply = await exchange(
        service.address, [MESSAGE], traceparent=b"\x92", user_agent=b"\xff", x_other=b"\xc3\xa9"
    )
    assert reply.status == 0


async def test_a_malformed_timeout_is_an_internal_error(service: Service) -> None:
    for timeout in (b"", b"1", b"-1S", b"1.5S", b"\x92"):
        assert (await exchange(service.address, [MESSAGE], grpc_timeout=timeout)).status == 13
    await assert_decides(service)


async def test_a_header_above_the_maximum_ends_at_most_its_connection(service: Service) -> None:
    with suppress(ConnectionError):
        await exchange(service.address, [MESSAGE], x_other=b"x" * 100_000)
    await assert_decides(service)


async def test_calls_above_the_maximum_of_a_connection_do_not_harm_other_connections(
    service: Service,
) -> None:
    """`grpcio` refuses such a call, and `fast` ends the connection."""
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", CHECK.encode()),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    block = wire.literal_block(fields)
    reader, writer = await asyncio.open_connection(service.address.host, service.address.port)
    try:
        writer.write(wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0))
        most = _max_concurrent_streams((await _next_frame(reader, wire.SETTINGS))[1])
        assert most in {512, 1024}
        writer.write(wire.frame(wire.SETTINGS, wire.ACK, 0))
        for number in range(most + 1):
            writer.write(wire.frame(wire.HEADERS, wire.END_HEADERS, 2 * number + 1, block))
        refused_stream = 7
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            assert await _next_frame(reader, wire.RST_STREAM) == (2 * most + 1, refused_stream.to_bytes(4))

        async def decides() -> bool:
            return (await exchange(service.address, [MESSAGE])).status == 0

        await eventually(decides, "a call over another connection is decided")
    finally:
        writer.close()


def _max_concurrent_streams(settings: bytes) -> int:
    """Returns the value of a SETTINGS frame; 0 if it is not there."""
    pairs = {settings[at : at + 2]: settings[at + 2 : at + 6] for at in range(0, len(settings), 6)}
    return int.from_bytes(pairs.get(b"\x00\x03", b""))


async def _next_frame(reader: asyncio.StreamReader, wanted: int) -> tuple[int, bytes]:
    """Returns the stream and the payload of the next frame of a kind."""
    while True:
        head = await reader.readexactly(9)
        payload = await reader.readexactly(int.from_bytes(head[:3]))
        if head[3] == wanted and not head[4] & wire.ACK:
            return int.from_bytes(head[5:]), payload


async def test_calls_of_unknown_methods_at_once_all_get_a_status(service: Service) -> None:
    async with channel_to(service.address) as channel:
        calls = [method_of(channel, f"/nope/{number}")(b"", timeout=10) for number in range(200)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    codes = {error.code() for error in errors if isinstance(error, grpc.aio.AioRpcError)}
    assert (len(errors), codes) == (200, {grpc.StatusCode.UNIMPLEMENTED})


async def test_the_listener_reports_the_end_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Any) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr(grpcio_server._AioServer, "_request_call", fail)
    async with serve_in_process(OracleLimiter()) as listener:
        assert await listener.ended() == "the gRPC server ended by itself: for the test"
