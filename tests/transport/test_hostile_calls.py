"""Calls that only a faulty or hostile peer makes, to each transport. Each ends, and harms no other call."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest

from ratelimitd.transport import grpcio_server
from ratelimitd.transport.fast.framing import frame
from tests.core.fakes import OracleLimiter
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
