"""The ASGI application that an Envoy loads. Its lifespan opens the service and watches the lifeline.

The lifeline is a pipe from the process that started this Envoy, its supervisor. A byte in it asks the service
to leave: health turns to NOT_SERVING. Its end asks the service to drain and stop. It also ends when the
supervisor dies, however it dies, so no Envoy is left without one.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from ratelimitd.errors import RatelimitdError
from ratelimitd.transport import health, reflection
from ratelimitd.transport.fast.asgi_types import Application, Receive, Scope, Send
from ratelimitd.transport.fast.calls import CallsInFlight
from ratelimitd.transport.fast.grpc_app import GrpcApplication
from ratelimitd.transport.fast.http_app import HttpApplication
from ratelimitd.transport.services import Methods, service_names


@dataclass(frozen=True, slots=True)
class HostedService:
    """What the application serves.

    Args:
        methods: the unary methods, and the check over HTTP.
        bound_s: seconds after which every method ends by itself.
        max_message_bytes: longer messages are refused.
        drain_s: seconds that calls in flight have to finish.
        lifeline: the file descriptor of the pipe's reading end; None without a supervisor.
        on_leave: is called when health turns to NOT_SERVING.
    """

    methods: Methods
    bound_s: float
    max_message_bytes: int
    drain_s: float
    lifeline: int | None
    on_leave: Callable[[], None] = lambda: None


class HostedApplication:
    """The ASGI application of a service, which `open_service` opens for the life of the process."""

    # asgiref's hint that this callable is ASGI 3: without it the host would take a function that is not a
    # coroutine function for ASGI 2.
    _asgi_single_callable = True

    _calls: CallsInFlight
    _grpc: GrpcApplication
    _by_path: Mapping[str, Application]

    def __init__(self, open_service: Callable[[], AbstractAsyncContextManager[HostedService]]) -> None:
        self._open_service = open_service
        self._stopping: asyncio.Task[None] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[None, None, None]:
        """Serves one call, or the lifespan of the process, which the host starts before any call."""
        if scope["type"] == "lifespan":
            return self._live(receive, send)
        return self._by_path.get(scope["path"], self._grpc)(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            await receive()  # lifespan.startup
            try:
                service = await stack.enter_async_context(self._open_service())
            except RatelimitdError as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            names = service_names(service.methods.unary)
            status = health.Health(("", *names), service.on_leave)
            self._calls = CallsInFlight()
            self._grpc = _grpc_application(service, names, status, self._calls)
            self._by_path = {
                path: HttpApplication(method, self._calls) for path, method in service.methods.http.items()
            }
            if service.lifeline is not None:
                self._watch(service.lifeline, status, service.drain_s)
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
        await send({"type": "lifespan.shutdown.complete"})

    def _watch(self, lifeline: int, status: health.Health, drain_s: float) -> None:
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            status.leave()
            if not os.read(lifeline, 1):
                loop.remove_reader(lifeline)
                self._stopping = loop.create_task(self._stop(status, drain_s))

        loop.add_reader(lifeline, on_readable)

    async def _stop(self, status: health.Health, drain_s: float) -> None:
        status.end()
        try:
            async with asyncio.timeout(drain_s):
                await self._calls.drain()
        except TimeoutError:
            pass  # the calls that are left are cut off
        end_host()


def end_host() -> None:
    """Ends the Envoy that hosts this application, whose supervisor has blocked SIGTERM."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.kill(os.getpid(), signal.SIGTERM)


def _grpc_application(
    service: HostedService, names: tuple[str, ...], status: health.Health, calls: CallsInFlight
) -> GrpcApplication:
    described = reflection.Reflection((*names, health.SERVICE, reflection.SERVICE))
    return GrpcApplication(
        calls,
        unary=service.methods.unary,
        streams={**status.methods, **described.methods},
        max_message_bytes=service.max_message_bytes,
        bound_s=service.bound_s,
    )
