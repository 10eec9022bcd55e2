"""Calls that come too late are refused, on both transports, and take no tokens."""

import asyncio
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from ratelimitd.bounded_log import LINES_PER_MINUTE, BoundedLog
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Event
from ratelimitd.transport.fast.calls import CallsInFlight
from ratelimitd.transport.fast.framing import frame
from ratelimitd.transport.fast.grpc_app import GrpcApplication
from ratelimitd.transport.grpcio import unary_handler
from ratelimitd.transport.overload import MARGIN_S, OVERLOADED_S, Overload
from ratelimitd.transport.services import Unary

SOON_S = MARGIN_S / 2
SCOPE = {
    "http_version": "2",
    "path": "/s/Echo",
    "method": "POST",
    "headers": [(b"content-type", b"application/grpc"), (b"grpc-timeout", b"250m")],
}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Returns the time, in seconds."""
        return self.now_s


class Calls:
    """A method that returns its message, with the calls that reached it and the number that were refused."""

    def __init__(self) -> None:
        self.refused = 0
        self.reached: list[bytes] = []
        self.overload = Overload(self._refuse, Clock())
        self.method = Unary(lambda message, _: message, self._echo, bytes, overload=self.overload)

    def _refuse(self) -> None:
        self.refused += 1

    async def _echo(self, message: bytes) -> bytes:
        self.reached.append(message)
        return message


class Context:
    """The context of a call of grpc, as far as a handler needs it."""

    def __init__(self, left_s: float | None) -> None:
        self._left_s = left_s
        self.status: grpc.StatusCode | None = None

    def time_remaining(self) -> float | None:
        """Returns how long the caller waits, in seconds; None without a deadline."""
        return self._left_s

    def invocation_metadata(self) -> None:
        """Returns no metadata."""

    async def abort(self, status: grpc.StatusCode, _details: str) -> None:
        """Keeps the status."""
        self.status = status


def is_refused(overload: Overload, left_s: float) -> bool:
    """Returns whether a call with so much time left is refused."""
    try:
        overload.check(left_s)
    except CallError as error:
        return error.code is GrpcCode.UNAVAILABLE
    return False


def test_a_call_with_little_time_is_refused_only_soon_after_one_without_any() -> None:
    clock = Clock()
    overload = Overload(now_s=clock)
    assert not is_refused(overload, SOON_S)
    assert is_refused(overload, 0)
    assert is_refused(overload, SOON_S)
    clock.now_s = OVERLOADED_S
    assert not is_refused(overload, SOON_S)


async def test_a_call_with_enough_time_is_never_refused() -> None:
    calls = Calls()
    assert is_refused(calls.overload, -1)
    assert await calls.method.begin(b"x", "", 2 * MARGIN_S) == b"x"


def test_every_refusal_is_counted_and_few_are_logged() -> None:
    calls = Calls()
    with capture_logs() as logs:
        assert all(is_refused(calls.overload, 0) for _ in range(1000))
    assert calls.refused == 1000
    assert [line["event"] for line in logs] == ["overloaded"] * LINES_PER_MINUTE


async def answer_of_fast(calls: Calls, waits_s: float) -> list[Event]:
    """Returns the events with which `fast` answers a call that waits so long for the event loop."""
    clock, sent = Clock(), list[Event]()
    body: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
    body.set_result({"type": "http.request", "body": frame(b"x"), "more_body": False})

    async def send(event: Event) -> None:
        sent.append(event)

    application = GrpcApplication(
        CallsInFlight(),
        unary={"/s/Echo": calls.method},
        streams={},
        max_message_bytes=100,
        bound_s=0.05,
        now_s=clock,
    )
    call = application(SCOPE, lambda: body, send)
    clock.now_s = waits_s
    await call
    return sent


@pytest.mark.parametrize(("waits_s", "reached"), [(0.2, [b"x"]), (0.25, [])])
async def test_fast_refuses_a_call_whose_timeout_has_passed(waits_s: float, reached: list[bytes]) -> None:
    calls = Calls()
    sent = await answer_of_fast(calls, waits_s)
    assert calls.reached == reached
    assert calls.refused == 1 - len(reached)
    status = (b"grpc-status", b"%d" % (0 if reached else GrpcCode.UNAVAILABLE))
    assert status in sent[-1 if reached else 0]["headers"]


@pytest.mark.parametrize(("left_s", "reached"), [(0.05, [b"x"]), (None, [b"x"]), (0.0, [])])
async def test_grpcio_refuses_a_call_whose_deadline_has_passed(
    left_s: float | None, reached: list[bytes]
) -> None:
    calls, context = Calls(), Context(left_s)
    handle: Any = unary_handler("/s/Echo", calls.method, BoundedLog("test"), 100, None)
    await handle(b"x", context)
    assert calls.reached == reached
    assert context.status is (None if reached else grpc.StatusCode.UNAVAILABLE)
