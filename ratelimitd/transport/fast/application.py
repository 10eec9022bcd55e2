"""What an Envoy loads: an ASGI application whose lifespan opens the service and watches the lifeline.

The lifeline is a pipe from whoever started this Envoy. A byte in it says: leave, health is NOT_SERVING from
now on. Its end says: drain and stop. It ends too when that process dies, however it dies: no orphan is left.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import partial

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import Answer, Request
from ratelimitd.errors import MalformedRequestError, RatelimitdError
from ratelimitd.transport.ext_authz import SERVICE, decode, encode
from ratelimitd.transport.fast import health, reflection
from ratelimitd.transport.fast.framing import CallError
from ratelimitd.transport.fast.grpc_app import GrpcApplication, Receive, Scope, Send, Unary


@dataclass(frozen=True, slots=True)
class Service:
    """What the module serves.

    `bound_s` is how long a check takes at most.
    `lifeline` is the reading end of the pipe, None when nobody holds the other end.
    """

    check: Callable[[Request], Awaitable[Answer]]
    bound_s: float
    max_message_bytes: int
    drain_s: float
    lifeline: int | None


class Module:
    """The ASGI application. `opened` gives the service, from the start of its process to the end."""

    _asgi_single_callable = True  # asgiref's hint that a plain function returns the coroutine: this is ASGI 3

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Service]]) -> None:
        self._opened = opened
        self._health = health.Health(("", SERVICE))
        self._grpc: GrpcApplication | None = None
        self._stopping: asyncio.Task[None] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Serves one call, or the lifespan of the process."""
        if self._grpc is None:
            return self._live(receive, send)
        return self._grpc(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            await receive()  # lifespan.startup
            try:
                service = await stack.enter_async_context(self._opened())
            except RatelimitdError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            self._grpc = self._application(service)
            if service.lifeline is not None:
                self._watch(service.lifeline, service.drain_s)
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    def _application(self, service: Service) -> GrpcApplication:
        services = (SERVICE, health.SERVICE, reflection.SERVICE)
        return GrpcApplication(
            unary={
                f"/{SERVICE}/Check": Unary(partial(_begin, service.check), encode),
                f"/{health.SERVICE}/Check": Unary(self._health.check, bytes),
            },
            streams={
                f"/{health.SERVICE}/Watch": self._health.watch,
                f"/{reflection.SERVICE}/ServerReflectionInfo": reflection.Reflection(services).info,
            },
            max_message_bytes=service.max_message_bytes,
            bound_s=service.bound_s,
        )

    def _watch(self, lifeline: int, drain_s: float) -> None:
        loop = asyncio.get_running_loop()

        def told() -> None:
            self._health.leave()
            if not os.read(lifeline, 1):
                loop.remove_reader(lifeline)
                self._stopping = loop.create_task(self._stop(drain_s))

        loop.add_reader(lifeline, told)

    async def _stop(self, drain_s: float) -> None:
        self._health.end()
        if self._grpc is not None:
            try:
                async with asyncio.timeout(drain_s):
                    await self._grpc.drain()
            except TimeoutError:
                pass  # what is left is cut off
        os.kill(os.getpid(), signal.SIGTERM)


def _begin(check: Callable[[Request], Awaitable[Answer]], payload: bytes) -> Awaitable[Answer]:
    try:
        request = decode(payload)
    except MalformedRequestError as error:
        raise CallError(GrpcCode.INVALID_ARGUMENT, str(error)) from error
    return check(request)
