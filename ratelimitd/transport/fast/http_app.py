"""Methods over HTTP, served over ASGI."""

import asyncio
from collections.abc import Coroutine

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Receive, Scope, Send
from ratelimitd.transport.fast.calls import CallsInFlight
from ratelimitd.transport.fast.responses import refuse_http, respond
from ratelimitd.transport.http_call import HttpCall, HttpMethod

_STATUS = {GrpcCode.INVALID_ARGUMENT: 400}
"""The HTTP status of a call that is not answered. Others have 503."""


class HttpApplication:
    """An ASGI application that serves one method.

    Args:
        method: answers the calls.
        calls: where the calls in flight are kept.
    """

    def __init__(self, method: HttpMethod, calls: CallsInFlight) -> None:
        self._method = method
        self._calls = calls
        self._in_flight = calls.by_receive
        self._log = BoundedLog("ratelimitd.fast")

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Serves one call, which `receive` identifies. Its body is not read."""
        call = self._in_flight[receive] = self._serve(scope, receive, send)
        return call

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._calls.refuse_if_draining()
            peer, *_ = scope["client"] or ("",)  # a Unix socket has no address
            call = HttpCall(scope["method"], scope["query_string"], scope["headers"], peer)
            status, fields, body = await self._method(call)
            if len(self._in_flight) > 1:
                # Calls that finish in this turn of the event loop are all sent in the next one: the host's
                # thread then wakes up once instead of once per call.
                await asyncio.sleep(0)
            await respond(send, status, fields, body)
        except CallError as error:
            await refuse_http(send, _STATUS.get(error.code, 503), str(error))
        except Exception:  # noqa: BLE001 - a defect: the caller gets a status, and the traceback goes to the log
            self._log.exception("call_failed", method=scope["path"])
            await refuse_http(send, 500, "internal error")
        finally:
            self._calls.remove(receive)
