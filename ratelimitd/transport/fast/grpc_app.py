"""gRPC calls over ASGI. Every call ends with a grpc-status, and no traceback reaches a caller.

A method with one message in and one out is served without a task or a timer of its own: decisions take that
way. One that streams has a reader beside it, which cancels it when the caller goes away.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

import structlog

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.fast.framing import (
    PREFIX_BYTES,
    CallError,
    expected_bytes,
    frame,
    only_message,
    status_fields,
    timeout_s,
    truncated,
)

Scope = Mapping[str, Any]
Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Unary(NamedTuple):
    """One message in, one out: `begin` reads the one, and `finish` writes the other from what that comes to.

    Both may raise CallError for an end without an answer.
    """

    begin: Callable[[bytes], Awaitable[Any]]
    finish: Callable[[Any], bytes]


Stream = Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
"""Messages in, messages out, each as soon as it is there. Raises CallError."""

_T = TypeVar("_T")

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_START = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK = {"type": "http.response.trailers", "headers": status_fields(GrpcCode.OK)}
_NO_BODY = {"type": "http.response.body", "body": b""}


_GONE_POLL_S = 1.0
"""How often a stream whose caller has said all looks whether the caller is still there."""


class _GoneError(Exception):
    """The caller went away: there is nobody to answer."""


class GrpcApplication:
    """An ASGI application that serves these methods, by path: `/package.Service/Method`.

    Args:
        unary: methods that take and give one message.
        streams: the others.
        max_message_bytes: longer messages are refused.
        bound_s: no unary method takes longer, by itself. A caller's time-out above it needs no timer.
    """

    def __init__(
        self,
        *,
        unary: Mapping[str, Unary],
        streams: Mapping[str, Stream],
        max_message_bytes: int,
        bound_s: float,
    ) -> None:
        self._unary = unary
        self._streams = streams
        self._max_message_bytes = max_message_bytes
        self._bound_s = bound_s
        self._log = structlog.get_logger("ratelimitd.fast")
        # The host keeps no reference to the task of a call, and asyncio only a weak one: a call that waits
        # for something that only the call itself knows would be collected as garbage.
        self._in_flight: dict[Receive, Coroutine[None, None, None]] = {}
        self._streaming: dict[Receive, Coroutine[None, None, None]] = {}
        self._draining = False
        self._idle = asyncio.Event()

    async def drain(self) -> None:
        """Takes no new call, and returns when every call of a unary method in flight has its answer."""
        self._draining = True
        if self._in_flight:
            await self._idle.wait()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Serves one call, which `receive` stands for."""
        unary = None if self._draining else self._unary.get(scope["path"])
        # The body is asked for before the call has its turn: the host fetches it meanwhile.
        begun = None if unary is None else (unary, receive())
        call = self._in_flight[receive] = self._serve(begun, scope, receive, send)
        return call

    async def _serve(
        self, begun: tuple[Unary, Awaitable[Event]] | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            if begun is None:
                await self._other(scope, receive, send)
                return
            unary, first = begun
            timeout = _check_headers(scope)
            event = await first
            if event.get("more_body", True):
                message = await self._message(event, receive)
            else:
                message = only_message(event["body"], self._max_message_bytes)
            if timeout is None or (within_s := timeout_s(timeout)) >= self._bound_s:
                found = await unary.begin(message)
            else:
                found = await _within(within_s, unary.begin(message))
            answer = frame(unary.finish(found))
            if len(self._in_flight) > 1:
                # Who is answered in one turn is sent for in the next: the host wakes up once for all of them.
                await asyncio.sleep(0)
            await send(_START)
            await send({"type": "http.response.body", "body": answer})
            await send(_OK)
        except _GoneError:
            return
        except CallError as error:
            await _refuse(send, error)
        except Exception:  # noqa: BLE001 - a defect of ours: Envoy obeys its failure_mode_allow
            self._log.exception("check_broke")
            await _refuse(send, CallError(GrpcCode.INTERNAL, "internal error"))
        finally:
            self._in_flight.pop(receive, None)
            if self._draining and not self._in_flight:
                self._idle.set()

    async def _message(self, event: Event, receive: Receive) -> bytes:
        """The only message of the call, in pieces. It may be refused before all of them are here."""
        body: bytes = b""
        while event["type"] != "http.disconnect":
            body += event["body"]
            if not event["more_body"]:
                return only_message(body, self._max_message_bytes)
            expected_bytes(body, self._max_message_bytes)
            event = await receive()
        raise _GoneError

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no call of a unary method that may be taken."""
        _check_headers(scope)
        if self._draining:
            raise CallError(GrpcCode.UNAVAILABLE, "this replica is about to stop")
        stream = self._streams.get(scope["path"])
        if stream is None:
            raise CallError(GrpcCode.UNIMPLEMENTED, f"there is no method {scope['path']} here")
        # A stream ends when its caller likes: nobody waits for it.
        self._streaming[receive] = self._in_flight.pop(receive)
        try:
            await self._serve_stream(stream, receive, send)
        finally:
            del self._streaming[receive]

    async def _serve_stream(self, method: Stream, receive: Receive, send: Send) -> None:
        inbox: asyncio.Queue[bytes | CallError | None] = asyncio.Queue(1)
        reader = asyncio.create_task(self._read(receive, inbox))
        answering = asyncio.create_task(_answer(method(_from(inbox)), send))
        try:
            await asyncio.wait((reader, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise _GoneError
            answering.result()
        finally:
            reader.cancel()
            answering.cancel()

    async def _read(self, receive: Receive, inbox: asyncio.Queue[bytes | CallError | None]) -> None:
        """Puts each message into `inbox`, None at their end, and returns when the caller goes away."""
        data = bytearray()
        more = True
        # The host fills its future whatever happens, so it must not be a cancelled one.
        while (event := await asyncio.shield(receive()))["type"] != "http.disconnect":
            if not more:
                # After the end the host tells of a disconnect only when it is asked, and never waits for it.
                await asyncio.sleep(_GONE_POLL_S)
                continue
            data += event["body"]
            try:
                while len(data) >= (end := expected_bytes(data, self._max_message_bytes)):
                    await inbox.put(bytes(data[PREFIX_BYTES:end]))
                    del data[:end]
                more = event["more_body"]
                if not more:
                    await inbox.put(truncated() if data else None)
            except CallError as error:
                await inbox.put(error)


async def _from(inbox: asyncio.Queue[bytes | CallError | None]) -> AsyncIterator[bytes]:
    while (item := await inbox.get()) is not None:
        if isinstance(item, CallError):
            raise item
        yield item


async def _answer(messages: AsyncIterator[bytes], send: Send) -> None:
    started = False
    try:
        async for message in messages:
            if not started:
                await send(_START)
                started = True
            await send({"type": "http.response.body", "body": frame(message), "more_body": True})
    except CallError as error:
        if not started:
            raise
        await send(_NO_BODY)
        await send({"type": "http.response.trailers", "headers": status_fields(error.status, str(error))})
        return
    if not started:
        await send(_START)
    await send(_NO_BODY)
    await send(_OK)


async def _within(seconds: float, begun: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout(seconds):
            return await begun
    except TimeoutError as error:
        raise CallError(GrpcCode.DEADLINE_EXCEEDED, "the caller's time-out has passed") from error


def _check_headers(scope: Scope) -> bytes | None:
    """The caller's time-out as sent, if any. Raises CallError for a request that is no gRPC call."""
    timeout = content_type = None
    for name, value in scope["headers"]:
        if name == b"grpc-timeout":
            timeout = value
        elif name == b"content-type":
            content_type = value
    if content_type is None or not content_type.startswith(b"application/grpc") or scope["method"] != "POST":
        raise CallError(
            GrpcCode.UNIMPLEMENTED, "only gRPC is spoken here: POST, content-type application/grpc"
        )
    return timeout


async def _refuse(send: Send, error: CallError) -> None:
    """An answer that is all trailers: HTTP 200 and the status of the call."""
    fields = [_CONTENT_TYPE, *status_fields(error.status, str(error))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send(_NO_BODY)
