"""Applications inside an Envoy that answer checks over HTTP with a fixed response: rungs of the ladder."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from bench import echo
from bench.echo_fast import Application, Receive, Send
from ratelimitd.transport.fast.application import HostedApplication, HostedService
from ratelimitd.transport.fast.hop_server import serve_hop
from ratelimitd.transport.fast.responses import NO_BODY
from ratelimitd.transport.hop_check import VARIABLE, Answer, HopSettings, decode
from ratelimitd.transport.http_call import ALLOWED, Fields
from ratelimitd.transport.services import Methods


class _Echo(Application):
    """Returns an empty response to every call of pyvoy."""

    async def _serve(self, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": ALLOWED, "headers": []})
        await send(NO_BODY)


def _fixed(fields: Fields) -> Answer:
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    response = b"HTTP/1.1 200 \r\n" + lines + b"content-length: 0\r\n\r\n"

    async def answer(_head: bytes, _arrived_s: float) -> bytes:
        return response

    return answer


def _decoding(answer: Answer) -> Answer:
    async def decoding(head: bytes, arrived_s: float) -> bytes:
        decode(head)
        return await answer(head, arrived_s)

    return decoding


def _hosted(answer: Answer) -> HostedApplication:
    """The application of the service, with checks that decide nothing."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[HostedService]:
        settings = HopSettings(*json.loads(os.environ[VARIABLE]))
        async with serve_hop(settings.socket, answer):
            yield HostedService(Methods({}, {}), bound_s=1, max_message_bytes=1, drain_s=0, lifeline=None)

    def open_service() -> AbstractAsyncContextManager[HostedService]:
        return opened()

    return HostedApplication(open_service)


pyvoy = _Echo()
"""Returns no headers, over the internal listener."""

bare = _hosted(_fixed([]))
"""Returns no headers."""

headers = _hosted(_fixed(echo.FIELDS))
"""Returns the headers of an allowed decision."""

decoding = _hosted(_decoding(_fixed(echo.FIELDS)))
"""Decodes each check in addition."""
