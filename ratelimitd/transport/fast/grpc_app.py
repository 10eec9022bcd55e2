"""gRPC calls over ASGI. Every call ends with a grpc-status, and callers never see a traceback.

A unary call runs without a task or a timer of its own, because decisions take this path. `streams` serves the
other calls.
"""

import asyncio
import time
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from functools import lru_cache
from math import inf
from typing import TypeVar

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError, NotGrpcError
from ratelimitd.transport.fast.asgi_types import Event, Receive, Scope, Send
from ratelimitd.transport.fast.calls import CallsInFlight
from ratelimitd.transport.fast.framing import OnlyMessage, frame, only_message, timeout_s
from ratelimitd.transport.fast.responses import OK, START, refuse, refuse_http
from ratelimitd.transport.fast.streams import DISCONNECT_POLL_S, DisconnectedError, serve_stream
from ratelimitd.transport.large_message import large_bytes
from ratelimitd.transport.services import Stream, Unary

_T = TypeVar("_T")


class GrpcApplication:
    """An ASGI application that serves these methods, by path: `/package.Service/Method`.

    Args:
        calls: where the unary calls in flight are kept.
        unary: methods that take and return one message.
        streams: the others.
        max_message_bytes: longer messages are refused, not counting fields that their method does not need.
        bound_s: seconds after which every unary method ends by itself. A longer timeout of the caller needs
            no timer.
        disconnect_poll_s: how often a stream looks for a disconnect after its caller's last message.
        now_s: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        calls: CallsInFlight,
        *,
        unary: Mapping[str, Unary],
        streams: Mapping[str, Stream],
        max_message_bytes: int,
        bound_s: float,
        disconnect_poll_s: float = DISCONNECT_POLL_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unary = unary
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self._large_bytes = large_bytes(max_message_bytes)
        self._bound_s = bound_s
        self._disconnect_poll_s = disconnect_poll_s
        self._now_s = now_s
        self._timeout_s = lru_cache(maxsize=64)(timeout_s)  # a caller sends the same timeout with every call
        self._log = BoundedLog("ratelimitd.fast")
        self._calls = calls
        self._in_flight = calls.by_receive
        self._streaming: dict[Receive, Coroutine[None, None, None]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Serves one call, which `receive` identifies."""
        unary = None if self._calls.draining else self._unary.get(scope["path"])
        # The host fetches the body while the event loop has yet to reach this call, so ask for it now.
        begun = None if unary is None else (unary, receive(), self._now_s())
        call = self._in_flight[receive] = self._serve(begun, scope, receive, send)
        return call

    async def _serve(
        self, begun: tuple[Unary, Awaitable[Event], float] | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if begun is None:
                await self._serve_other(scope, receive, send)
                return
            unary, first, begun_s = begun
            timeout, traceparent = _check_headers(scope)
            event = await first
            if event.get("more_body", True) or len(event["body"]) > self._large_bytes:
                message = await self._message(event, receive, unary)
            else:
                message = only_message(event["body"], self._max_message_bytes)
            limit_s = inf if timeout is None else self._timeout_s(timeout)
            call = unary.begin(message, traceparent, begun_s + limit_s - self._now_s())
            result = await (call if limit_s >= self._bound_s else _within(limit_s, call))
            body = frame(unary.encode(result))
            if len(self._in_flight) > 1:
                # Calls that finish in this turn of the event loop are all sent in the next one: the host's
                # thread then wakes up once instead of once per call.
                await _next_turn()
            try:
                await send(START)
                await send({"type": "http.response.body", "body": body})
                await send(OK)
            except OSError:  # the caller has left
                return
        except DisconnectedError:
            return
        except NotGrpcError as error:
            await refuse_http(send, error.http_status, str(error))
        except CallError as error:
            await refuse(send, error)
        except Exception:  # noqa: BLE001 - a defect: the caller gets a status, and the traceback goes to the log
            self._log.exception("call_failed", method=scope["path"])
            await refuse(send, CallError(GrpcCode.INTERNAL, "internal error"))
        finally:
            self._calls.remove(receive)

    async def _message(self, event: Event, receive: Receive, method: Unary) -> bytes:
        """Receives the rest of the call's only message. Raises CallError as soon as it is refused."""
        message = OnlyMessage(method.unneeded, self._max_message_bytes)
        while event["type"] != "http.disconnect":
            message.add(event["body"])
            if not event["more_body"]:
                return message.message()
            event = await receive()
        raise DisconnectedError

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a stream. Raises CallError for an unknown method, and for any call while draining."""
        _check_headers(scope)
        self._calls.refuse_if_draining()
        stream = self._streams.get(scope["path"])
        if stream is None:
            raise CallError(GrpcCode.UNIMPLEMENTED, f"unknown method {scope['path']}")
        # The caller decides when a stream ends, so draining must not wait for it.
        self._streaming[receive] = self._in_flight.pop(receive)
        try:
            await serve_stream(
                stream,
                receive,
                send,
                max_message_bytes=self._max_message_bytes,
                disconnect_poll_s=self._disconnect_poll_s,
            )
        finally:
            del self._streaming[receive]


@types.coroutine
def _next_turn() -> Generator[None, None, None]:
    """Waits for the next turn of the event loop, as asyncio.sleep(0) does with two frames more."""
    yield


async def _within(seconds: float, call: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await call
    except TimeoutError as error:
        raise CallError(GrpcCode.DEADLINE_EXCEEDED, "the caller's timeout has expired") from error


def _check_headers(scope: Scope) -> tuple[bytes | None, str]:
    """The call's timeout as sent, and its traceparent. Raises CallError when it is not a gRPC call."""
    timeout = content_type = None
    traceparent = ""
    for name, value in scope["headers"]:
        if name == b"grpc-timeout":
            timeout = value
        elif name == b"content-type":
            content_type = value
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
    if (
        content_type is None
        or not content_type.startswith(b"application/grpc")
        or scope["method"] != "POST"
        or scope["http_version"] != "2"  # a proxy with a wrong path would take the 200 of gRPC for `allowed`
    ):
        raise NotGrpcError
    return timeout, traceparent
