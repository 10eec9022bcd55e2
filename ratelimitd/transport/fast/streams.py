"""Calls that stream. A reader runs beside the method and ends the call when the caller goes away."""

import asyncio
from collections.abc import AsyncIterator

from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Receive, Send
from ratelimitd.transport.fast.framing import (
    PREFIX_BYTES,
    expected_bytes,
    frame,
    status_fields,
    truncated,
)
from ratelimitd.transport.fast.responses import NO_BODY, OK, START
from ratelimitd.transport.services import Stream

DISCONNECT_POLL_S = 1.0
"""How often a disconnect is looked for, once the caller has sent its last message."""


class DisconnectedError(Exception):
    """The caller has left. The host's `send` raises an OSError then."""


async def serve_stream(
    method: Stream, receive: Receive, send: Send, *, max_message_bytes: int, disconnect_poll_s: float
) -> None:
    """Serves one call. Raises CallError when nothing has been sent yet, and DisconnectedError."""
    inbox: asyncio.Queue[bytes | CallError | None] = asyncio.Queue(1)
    reader = asyncio.create_task(_read(receive, inbox, max_message_bytes, disconnect_poll_s))
    sender = asyncio.create_task(_send_all(method(_messages(inbox)), send))
    try:
        await asyncio.wait((reader, sender), return_when=asyncio.FIRST_COMPLETED)
        if not sender.done():
            raise DisconnectedError
        sender.result()
    except OSError as error:
        raise DisconnectedError from error
    finally:
        reader.cancel()
        sender.cancel()


async def _read(
    receive: Receive,
    inbox: asyncio.Queue[bytes | CallError | None],
    max_message_bytes: int,
    disconnect_poll_s: float,
) -> None:
    """Puts each message into `inbox`, then None, and returns when the caller goes away."""
    data = bytearray()
    more = True
    # The shield keeps the host's future from being cancelled: the host sets its result in any case.
    while (event := await asyncio.shield(receive()))["type"] != "http.disconnect":
        if not more:
            # After the last message the host returns at once, and reports a disconnect only when asked again.
            await asyncio.sleep(disconnect_poll_s)
            continue
        data += event["body"]
        try:
            while len(data) >= (end := expected_bytes(data, max_message_bytes)):
                await inbox.put(bytes(data[PREFIX_BYTES:end]))
                del data[:end]
            more = event["more_body"]
            if not more:
                await inbox.put(truncated() if data else None)
        except CallError as error:
            await inbox.put(error)


async def _messages(inbox: asyncio.Queue[bytes | CallError | None]) -> AsyncIterator[bytes]:
    while (item := await inbox.get()) is not None:
        if isinstance(item, CallError):
            raise item
        yield item


async def _send_all(messages: AsyncIterator[bytes], send: Send) -> None:
    started = False
    try:
        async for message in messages:
            if not started:
                await send(START)
                started = True
            await send({"type": "http.response.body", "body": frame(message), "more_body": True})
    except CallError as error:
        if not started:
            raise
        await send(NO_BODY)
        await send({"type": "http.response.trailers", "headers": status_fields(error.code, str(error))})
        return
    if not started:
        await send(START)
    await send(NO_BODY)
    await send(OK)
