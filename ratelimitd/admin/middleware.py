"""What holds for every request and every answer: a longest body, a time for it, and rules for browsers."""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratelimitd.admin.error_responses import failure

MAX_BODY_BYTES = 7 << 20
"""A policy of 1 MiB fits however it is escaped: a line end takes six bytes in a form, and in JSON a NUL."""

MAX_BODY_S = 30.0
"""From the beginning of a request to the end of its body. Who sends on for ever would be held for ever."""

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Our own files and nothing else: no code in a page, no other site, no frame around ours."""

HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer."""


_TOO_LONG = f"the body must have at most {MAX_BODY_BYTES} bytes"
_TOO_LATE = f"the body must arrive within {MAX_BODY_S:g} s"


class BoundedBody:
    """Refuses a longer body with 413: unread when its length is told, else as soon as it is seen.

    One that is not whole in time is refused with 408.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:20]) > MAX_BODY_BYTES:
            await failure(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LONG)(scope, receive, send)
            return
        read_bytes, whole = 0, False
        end_s = asyncio.get_running_loop().time() + MAX_BODY_S

        async def counted() -> Message:
            nonlocal read_bytes, whole
            # Frameworks let an HTTPException through, where they would make any other a 400.
            try:
                async with asyncio.timeout_at(None if whole else end_s):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, _TOO_LATE) from error
            whole = not message.get("more_body", False)
            read_bytes += len(message.get("body", b""))
            if read_bytes > MAX_BODY_BYTES:
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LONG)
            return message

        await self._app(scope, counted, send)


class BrowserRules:
    """Adds HEADERS to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)
