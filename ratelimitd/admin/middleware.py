"""Middleware for all requests: limits on the body, security headers, a JSON answer to internal errors."""

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ratelimitd.admin.error_responses import error_response
from ratelimitd.bounded_log import BoundedLog

MAX_BODY_BYTES = 7 << 20
"""Fits a policy of 1 MiB however it is escaped: a line end takes six bytes in a form, a NUL six in JSON."""

MAX_BODY_S = 30.0
"""From the start of a request to the end of its body, so that no client can hold a connection forever."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Allows files of this service only: no inline code, no other site, no embedding in a frame."""

SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

_TOO_LONG = f"the body must have at most {MAX_BODY_BYTES} bytes"
_TOO_LATE = f"the body must arrive within {MAX_BODY_S:g} s"


class BodyLimits:
    """Refuses a body that is too long with 413, and one that is not complete in time with 408.

    A body whose Content-Length is too long is not read at all.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > MAX_BODY_BYTES:
            await error_response(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LONG)(scope, receive, send)
            return
        await self._app(scope, _LimitedReceive(receive), send)


class _LimitedReceive:
    """Receives a body, and raises HTTPException once it is too long or too late."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read_bytes = 0
        self._complete = False
        self._deadline_s = asyncio.get_running_loop().time() + MAX_BODY_S

    async def __call__(self) -> Message:
        """Returns the next message. FastAPI answers an HTTPException with its status, any other with 400."""
        try:
            async with asyncio.timeout_at(None if self._complete else self._deadline_s):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, _TOO_LATE) from error
        self._complete = not message.get("more_body", False)
        self._read_bytes += len(message.get("body", b""))
        if self._read_bytes > MAX_BODY_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _TOO_LONG)
        return message


class SecurityHeaders:
    """Adds SECURITY_HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


class InternalErrors:
    """Logs an unexpected exception and answers it with 500. No traceback reaches a client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = BoundedLog("ratelimitd.admin")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except ClientDisconnect:
            pass  # the client left before its body was complete: not an error, and an answer would not arrive
        except Exception:
            self._log.exception("admin_failed", method=scope.get("method"), path=scope.get("path"))
            if started:
                raise  # half a response was sent: the server must close the connection
            await error_response(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal error; see admin_failed in the log of ratelimitd"
            )(scope, receive, send)
