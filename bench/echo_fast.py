"""Floor of `fast`: an echo server that runs inside an Envoy in the same way."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bench.echo import APPLICATION, RESPONSE
from bench.echo_store import StoreCall, open_store_call
from ratelimitd.address import parse_address
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.fast.application import end_host
from ratelimitd.transport.fast.framing import frame, status_fields
from ratelimitd.transport.fast.supervisor import LIFELINE, serve_hosted

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_CONTENT_TYPE = (b"content-type", b"application/grpc")
_START = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_BODY = {"type": "http.response.body", "body": frame(RESPONSE)}
_END = {"type": "http.response.trailers", "headers": status_fields(GrpcCode.OK)}


class Application:
    """Returns the same response to every call. With a store, it makes one store call before."""

    _asgi_single_callable = True  # asgiref's hint that a plain function returns the coroutine: this is ASGI 3

    def __init__(self) -> None:
        self._call_store: StoreCall | None = None

    def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Handles one call, or the lifespan of the process."""
        return self._lifespan(receive, send) if scope["type"] == "lifespan" else self._serve(receive, send)

    async def _serve(self, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        if self._call_store is not None:
            await self._call_store()
        await send(_START)
        await send(_BODY)
        await send(_END)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """Ends the process when the supervisor closes the lifeline; the front Envoy has no lifeline."""
        await receive()
        if lifeline := os.environ.get(LIFELINE):
            asyncio.get_running_loop().add_reader(int(lifeline), end_host)
        async with open_store_call() as self._call_store:
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})


application = Application()


async def serve(address: str) -> None:
    """Serves until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with serve_hosted(APPLICATION, parse_address(address), environ=os.environ, drain_s=0):
        await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
