"""Tests of what only the fast transport has: the framing of gRPC, and the host's process."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.address import TcpAddress, UnixAddress
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.errors import ChildError, ListenError
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast import bootstrap, supervisor
from ratelimitd.transport.fast.asgi_types import Event
from ratelimitd.transport.fast.calls import CallsInFlight
from ratelimitd.transport.fast.framing import (
    expected_bytes,
    frame,
    only_message,
    status_fields,
    timeout_s,
)
from ratelimitd.transport.fast.grpc_app import GrpcApplication
from ratelimitd.transport.health import Health
from ratelimitd.transport.services import Unary
from tests.core.fakes import OracleLimiter
from tests.eventually import eventually
from tests.transport.conftest import Serve, serve_in_process
from tests.transport.http2 import exchange
from tests.transport.service_under_test import MAX_MESSAGE_BYTES
from tests.transport.test_conformance import HeldLimiter, check_request

MESSAGE = frame(bytes(check_request()))
HEAD: dict[str, Any] = {
    "http_version": "2",
    "method": "POST",
    "headers": [(b"content-type", b"application/grpc")],
}
"""What the scope of each gRPC call has."""


def refused(body: bytes) -> GrpcCode:
    """Returns the code of the response to this request body."""
    with pytest.raises(CallError) as error:
        only_message(body, 100)
    return error.value.code


@given(st.binary(max_size=100))
def test_reading_a_framed_message_returns_the_message(message: bytes) -> None:
    assert only_message(frame(message), 100) == message


@given(st.binary(max_size=100), st.data())
def test_a_truncated_message_is_refused(message: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(message) + 4))
    assert refused(frame(message)[:cut]) is GrpcCode.INTERNAL
    assert refused(b"") is GrpcCode.INVALID_ARGUMENT


@given(st.binary())
def test_any_bytes_are_a_message_or_refused(body: bytes) -> None:
    with suppress(CallError):
        assert frame(only_message(body, 100)) == body


def test_each_violation_of_the_format_has_its_own_status() -> None:
    assert refused(b"\1" + frame(b"x")[1:]) is GrpcCode.UNIMPLEMENTED
    assert refused(frame(b"x" * 101)) is GrpcCode.RESOURCE_EXHAUSTED
    assert refused(frame(b"x") * 2) is GrpcCode.INVALID_ARGUMENT


def test_the_prefix_is_enough_to_refuse_a_message_above_the_maximum() -> None:
    with pytest.raises(CallError):
        expected_bytes(frame(b"x" * 101)[:5], 100)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"2H", 7200), (b"1M", 60), (b"3S", 3), (b"250m", 0.25), (b"7u", 7e-6), (b"9n", 9e-9)],
)
def test_a_timeout_can_be_given_in_each_unit(text: bytes, seconds: float) -> None:
    assert timeout_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", [b"", b"1", b"m", b"-1S", b"1.5S", b"123456789S", b"1s", b"1S "])
def test_a_malformed_timeout_is_refused(text: bytes) -> None:
    with pytest.raises(CallError):
        timeout_s(text)


def test_a_status_message_is_percent_encoded_utf_8() -> None:
    assert status_fields(GrpcCode.INTERNAL, "50% é\n")[1] == (b"grpc-message", b"50%25 %C3%A9%0A")


async def test_calls_that_finish_in_one_turn_of_the_event_loop_are_sent_together() -> None:
    seen: list[str] = []

    async def echo(message: bytes) -> bytes:
        seen.append("answered")
        return message

    async def send(event: Event) -> None:
        seen.append(event["type"])

    application = GrpcApplication(
        CallsInFlight(),
        unary={"/s/Echo": Unary(lambda message, _: message, echo, bytes)},
        streams={},
        max_message_bytes=MAX_MESSAGE_BYTES,
        bound_s=1,
    )
    scope = HEAD | {"path": "/s/Echo"}

    def called() -> Coroutine[None, None, None]:
        async def receive() -> Event:
            return {"type": "http.request", "body": MESSAGE, "more_body": False}

        return application(scope, receive, send)

    await asyncio.gather(called(), called(), called())
    answer = ["http.response.start", "http.response.body", "http.response.trailers"]
    assert seen == ["answered"] * 3 + answer * 3


async def test_the_body_is_requested_before_the_call_starts() -> None:
    receives: list[asyncio.Future[Event]] = []
    sent: list[Event] = []

    def receive() -> asyncio.Future[Event]:
        receives.append(asyncio.get_running_loop().create_future())
        return receives[-1]

    async def echo(message: bytes) -> bytes:
        return message

    async def send(event: Event) -> None:
        sent.append(event)

    application = GrpcApplication(
        CallsInFlight(),
        unary={"/s/Echo": Unary(lambda message, _: message, echo, bytes)},
        streams={},
        max_message_bytes=MAX_MESSAGE_BYTES,
        bound_s=1,
    )
    scope = HEAD | {"path": "/s/Echo"}
    call = application(scope, receive, send)
    (body,) = receives
    body.set_result({"type": "http.request", "body": MESSAGE, "more_body": False})
    await call
    assert sent[1]["body"] == MESSAGE
    assert len(receives) == 1


async def status_of_call(serve: Serve, chunks: Sequence[bytes]) -> int:
    """Returns the status of a call that consists of these frames."""
    async with serve(OracleLimiter()) as listener:
        assert isinstance(listener.address, TcpAddress)
        return (await exchange(listener.address, chunks)).status


async def test_the_parts_of_a_message_are_joined(serve: Serve) -> None:
    assert await status_of_call(serve, [MESSAGE[:3], MESSAGE[3:20], MESSAGE[20:]]) == 0


async def test_each_malformed_call_gets_a_status(serve_in_envoy: Serve) -> None:
    async with serve_in_envoy(OracleLimiter()) as listener:
        address = listener.address
        assert isinstance(address, TcpAddress)
        cut = await exchange(address, [MESSAGE[:-1]])
        assert (cut.status, cut.headers["grpc-message"]) == (13, "the request ended before its message did")
        assert (await exchange(address, [])).status == 3
        assert (await exchange(address, [MESSAGE, MESSAGE])).status == 3
        assert (await exchange(address, [b"\1" + MESSAGE[1:]])).status == 12
        json = await exchange(address, [MESSAGE], content_type="application/json")
        get = await exchange(address, [MESSAGE], method="GET")
        assert [json.headers[":status"], get.headers[":status"]] == ["404", "404"]
        assert (await exchange(address, [MESSAGE], grpc_timeout="soon")).status == 13
        assert (await exchange(address, [MESSAGE], path="/%F0%9F%98%80")).status == 12
        assert (await exchange(address, [MESSAGE])).status == 0


async def test_grpcio_answers_some_malformed_calls_differently() -> None:
    """Each of these differences is in docs/architecture.md."""
    async with serve_in_process(OracleLimiter()) as listener:
        address = listener.address
        assert isinstance(address, TcpAddress)
        assert (await exchange(address, [b"\1" + MESSAGE[1:]])).status == 13
        assert (await exchange(address, [MESSAGE, MESSAGE])).status == 0
        assert (await exchange(address, [MESSAGE], content_type="application/json")).status == 0
        for cut in ([MESSAGE[:-1]], []):
            with pytest.raises(TimeoutError):
                await exchange(address, cut, timeout_s=0.2)


async def test_a_message_above_the_maximum_is_refused_before_it_has_arrived(serve_in_envoy: Serve) -> None:
    async with serve_in_envoy(OracleLimiter()) as listener:
        assert isinstance(listener.address, TcpAddress)
        message = frame(bytes(check_request("u" * MAX_MESSAGE_BYTES)))
        reply = await exchange(listener.address, [message[:200]], end=False)
        assert reply.status == GrpcCode.RESOURCE_EXHAUSTED


async def test_the_timeout_of_the_caller_ends_the_call(serve_in_envoy: Serve) -> None:
    limiter = HeldLimiter()
    async with serve_in_envoy(limiter) as listener:
        assert isinstance(listener.address, TcpAddress)
        reply = await exchange(listener.address, [MESSAGE], grpc_timeout="50m")
        assert reply.status == GrpcCode.DEADLINE_EXCEEDED
        limiter.release.set()


async def test_each_message_of_a_stream_is_answered(serve_in_envoy: Serve) -> None:
    question = frame(b"\x3a\x00")  # list_services
    async with serve_in_envoy(OracleLimiter()) as listener:
        assert isinstance(listener.address, TcpAddress)
        reply = await exchange(
            listener.address,
            [question * 2 + question[:2], question[2:]],
            path="/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        )
    assert reply.status == 0
    assert reply.body.count(b"grpc.health.v1.Health") == 3


async def test_a_stream_ending_within_a_message_gets_responses_then_a_status(
    serve_in_envoy: Serve,
) -> None:
    question = frame(b"\x3a\x00")
    async with serve_in_envoy(OracleLimiter()) as listener:
        assert isinstance(listener.address, TcpAddress)
        reply = await exchange(
            listener.address,
            [question + question[:3]],
            path="/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        )
    assert reply.status == GrpcCode.INTERNAL
    assert reply.body.count(b"grpc.health.v1.Health") == 1


async def test_the_health_of_an_unknown_service(serve: Serve) -> None:
    request = health_pb2.HealthCheckRequest(service="nope")
    async with (
        serve(OracleLimiter()) as listener,
        grpc.aio.insecure_channel(str(listener.address)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Check(request, timeout=10)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


class CountingLimiter(HeldLimiter):
    """Counts the requests that have reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0

    async def take(self, request: TakeRequest) -> Outcome:
        self.waiting += 1
        return await super().take(request)


async def test_waiting_calls_are_not_garbage_collected(serve_in_envoy: Serve) -> None:
    """The host holds no reference to a call, and asyncio only a weak one."""
    limiter = CountingLimiter()
    async with serve_in_envoy(limiter) as listener:
        assert isinstance(listener.address, TcpAddress)
        calls = [asyncio.create_task(exchange(listener.address, [MESSAGE])) for _ in range(60)]

        async def all_wait() -> bool:
            return limiter.waiting == len(calls)

        await eventually(all_wait, "60 calls wait")
        limiter.release.set()
        assert {reply.status for reply in await asyncio.gather(*calls)} == {0}


async def _child_of_this_process() -> int:
    async def children() -> set[int]:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return {int(number) for number in text.split() if "envoy" in Path(f"/proc/{number}/comm").read_text()}

    (number,) = await children()
    return number


async def test_the_listener_reports_the_end_of_the_host(serve_in_envoy: Serve) -> None:
    async with serve_in_envoy(OracleLimiter()) as listener:
        os.kill(await _child_of_this_process(), signal.SIGKILL)
        async with asyncio.timeout(10):
            assert await listener.ended() == "the host of the service ended by itself, with status -9"


async def test_an_application_that_cannot_be_loaded_fails_the_start_and_is_logged(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ChildError, match="the host of the service ended with status 1"):
        async with supervisor.serve_hosted(
            "tests.nowhere:application",
            TcpAddress("127.0.0.1", 0),
            environ=dict(os.environ),
            drain_s=0,
            json_log=True,
        ):
            pass
    line = json.loads(capfd.readouterr().err.splitlines()[0])
    assert (line["event"], line["level"]) == ("envoy", "error")
    assert "No module named 'tests.nowhere'" in line["message"]


async def test_a_host_that_cannot_be_started_leaves_no_file_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "envoy_binary", lambda: "/nowhere/envoy")
    before = _open_pipes()
    with pytest.raises(ChildError, match="the host of the service cannot be started: "):
        async with supervisor.serve_hosted("x:y", TcpAddress("127.0.0.1", 0), environ={}, drain_s=0):
            pass
    assert _open_pipes() == before


def _open_pipes() -> set[str]:
    """Returns the names of the pipes that this process has open."""
    names = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing itself
            names.add(str(descriptor.readlink()))
    return {name for name in names if name.startswith("pipe:")}


async def test_a_socket_is_removed_at_the_end_and_never_taken_over(
    serve_in_envoy: Serve, socket_path: UnixAddress
) -> None:
    async with serve_in_envoy(OracleLimiter(), socket_path):
        assert Path(socket_path.path).is_socket()
        with pytest.raises(ListenError, match="in use"):
            async with serve_in_envoy(OracleLimiter(), socket_path):
                pass
    assert not Path(socket_path.path).exists()


async def test_a_watch_ends_when_its_caller_disconnects() -> None:
    """The host reports a disconnect only to a call of `receive` after the last message."""
    sent: list[Event] = []
    received: Iterator[Event] = iter(
        [
            {"type": "http.request", "body": frame(b""), "more_body": False},
            {"type": "http.request", "body": b"", "more_body": False},
            {"type": "http.request", "body": b"", "more_body": False},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Event:
        return next(received)

    async def send(event: Event) -> None:
        sent.append(event)

    application = GrpcApplication(
        CallsInFlight(),
        unary={},
        streams={"/Watch": Health([""]).watch},
        max_message_bytes=MAX_MESSAGE_BYTES,
        bound_s=1,
        disconnect_poll_s=0,
    )
    scope = HEAD | {"path": "/Watch"}
    async with asyncio.timeout(10):
        await application(scope, receive, send)
    assert [event["type"] for event in sent] == ["http.response.start", "http.response.body"]


async def test_a_watch_misses_no_change_while_it_sends_its_first_response() -> None:

    async def one_request() -> AsyncIterator[bytes]:
        yield b""

    health = Health([""])
    answers = health.watch(one_request())
    first = await anext(answers)
    health.leave()
    second = await anext(answers)
    assert [health_pb2.HealthCheckResponse.FromString(answer).status for answer in (first, second)] == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]
