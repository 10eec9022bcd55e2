"""The composition root of the service: the decision behind one of the transports, until a signal."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from socket import socket

import structlog

from ratelimitd import __version__
from ratelimitd.decider import open_decider
from ratelimitd.errors import ChildError
from ratelimitd.process import descriptors
from ratelimitd.process.signals import on_signal
from ratelimitd.settings import EMBEDDED, Settings, environment
from ratelimitd.store.access import access_by
from ratelimitd.store.client import refuse_unsupported
from ratelimitd.store.embedded import embedded_store
from ratelimitd.telemetry.logs import configure_logs, is_json
from ratelimitd.telemetry.metrics_server import serve_metrics
from ratelimitd.telemetry.traces.variables import prepare_environment
from ratelimitd.tls_settings import listen_tls
from ratelimitd.transport.certificate_expiry import CertificateExpiry
from ratelimitd.transport.listener import Listener
from ratelimitd.transport.metrics_sockets import open_metrics_sockets
from ratelimitd.transport.selection import TransportName, select_transport

HOSTED = "ratelimitd.asgi:application"
"""The application that an Envoy loads. It is only named here, because it imports this module."""


@asynccontextmanager
async def run_service(settings: Settings, transport: TransportName) -> AsyncIterator[Listener]:
    """Runs the service with this transport until the end of the block, whatever the settings name.

    Raises ListenError, MissingExtraError or ChildError, and StoreError if a server answers that cannot be
    a store.
    """
    settings = settings.model_copy(update={"transport": transport})
    async with AsyncExitStack() as stack:
        metrics_sockets = await asyncio.to_thread(
            open_metrics_sockets, settings, beside=settings.listen_address()
        )
        for one in metrics_sockets:
            stack.enter_context(one)
        if settings.redis_url == EMBEDDED:
            url = await stack.enter_async_context(embedded_store())
            structlog.get_logger("ratelimitd").info("embedded_store", url=url)
            settings = settings.model_copy(update={"redis_url": url})
        await refuse_unsupported(access_by(settings))
        serving = _hosted if transport == "fast" else _in_this_process
        yield await stack.enter_async_context(serving(settings, metrics_sockets))


@asynccontextmanager
async def _in_this_process(settings: Settings, metrics_sockets: Sequence[socket]) -> AsyncIterator[Listener]:
    # grpc would write lines of its own about malformed calls and failed connections, which are not JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from ratelimitd.transport.grpcio import serve_grpcio  # noqa: PLC0415 - grpc takes 17 MB
    from ratelimitd.transport.services import unary_methods  # noqa: PLC0415 - protobuf takes memory too

    descriptors.silence_accept_errors()
    expiry = CertificateExpiry()
    async with (
        open_decider(settings, expiry) as (decide, exposition, on_refused),
        serve_metrics(settings.metrics_address(), metrics_sockets, exposition) as metrics,
        serve_grpcio(
            unary_methods(decide, on_refused),
            settings.listen_address(),
            max_message_bytes=settings.max_message_bytes,
            drain_s=settings.drain_s,
            max_connection_age_s=settings.max_connection_age_s,
            on_leave=metrics.leave,
            tls=listen_tls(settings),
            on_certificates=expiry.note,
        ) as listener,
    ):
        yield listener


@asynccontextmanager
async def _hosted(settings: Settings, metrics_sockets: Sequence[socket]) -> AsyncIterator[Listener]:
    from ratelimitd.transport.fast.supervisor import serve_hosted  # noqa: PLC0415 - its library is an extra

    environ = os.environ | environment(settings)
    async with serve_hosted(
        HOSTED,
        settings.listen_address(),
        environ=environ,
        json_log=is_json(settings.log_format),
        drain_s=settings.drain_s,
        max_connection_age_s=settings.max_connection_age_s,
        metrics_sockets=metrics_sockets,
        tls=listen_tls(settings),
    ) as listener:
        yield listener


async def serve(settings: Settings) -> None:
    """Runs the service until a signal. On SIGTERM and SIGHUP, unlike SIGINT, callers get time to leave.

    A signal during the start ends it.
    """
    configure_logs(settings.log_level, settings.log_format)
    prepare_environment(os.environ)
    log = structlog.get_logger("ratelimitd")
    terminate, interrupt = asyncio.Event(), asyncio.Event()
    task = asyncio.current_task()
    starting = True

    def stop(event: asyncio.Event) -> None:
        event.set()
        if starting and task is not None:
            task.cancel()

    on_signal(signal.SIGTERM, partial(stop, terminate))
    on_signal(signal.SIGHUP, partial(stop, terminate))
    on_signal(signal.SIGINT, partial(stop, interrupt))
    descriptors.raise_limit()
    transport, reason = select_transport(settings.transport)
    try:
        async with run_service(settings, transport) as listener:
            starting = False
            address = str(listener.address)
            log.info("listening", address=address, transport=transport, reason=reason, version=__version__)
            await _serve_until(terminate, interrupt, listener, leave_s=settings.leave_s)
            log.info("draining", at_most_s=settings.drain_s)
    except asyncio.CancelledError:
        if not starting:
            raise
    log.info("stopped")


async def _serve_until(
    terminate: asyncio.Event, interrupt: asyncio.Event, listener: Listener, *, leave_s: float
) -> None:
    """Returns at `interrupt`, or `leave_s` seconds after `terminate`.

    Raises ChildError when the listener ends by itself.
    """
    log = structlog.get_logger("ratelimitd")
    loop = asyncio.get_running_loop()
    terminated, interrupted = loop.create_task(terminate.wait()), loop.create_task(interrupt.wait())
    ended = loop.create_task(listener.ended())
    with ExitStack() as stack:
        for task in (terminated, interrupted, ended):
            stack.callback(task.cancel)
        await asyncio.wait((terminated, interrupted, ended), return_when=asyncio.FIRST_COMPLETED)
        if not interrupted.done() and not ended.done():
            log.info("leaving", for_s=leave_s)
            listener.leave()
            await asyncio.wait((interrupted, ended), timeout=leave_s, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            raise ChildError(ended.result())
