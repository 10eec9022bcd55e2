"""The reference transport: grpc.aio serves the methods, health and reflection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ratelimitd.address import Address, TcpAddress
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.errors import ListenError
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.listener import Listener, ensure_free
from ratelimitd.transport.services import Unary, service_names

_STATUS = {code: grpc.StatusCode[code.name] for code in GrpcCode}


def _handler(
    path: str, method: Unary
) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
    log = structlog.get_logger("ratelimitd.grpcio")

    async def handle(payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return method.encode(await method.begin(payload, _traceparent(context)))
        except CallError as error:
            await context.abort(_STATUS[error.code], str(error))
        except Exception:  # a defect: the caller gets a status, and the traceback goes to the log
            log.exception("call_failed", method=path)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return handle


def _traceparent(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent":
            return str(value)
    return ""


async def _never_ends() -> str:
    """Never returns: this transport lives in the process of its caller and cannot end by itself."""
    await asyncio.Event().wait()
    return ""


@asynccontextmanager
async def serve_grpcio(
    methods: Mapping[str, Unary],
    address: Address,
    *,
    max_message_bytes: int,
    drain_s: float,
) -> AsyncIterator[Listener]:
    """Serves these methods until the end of the block. The listener's address holds the port actually bound.

    At the end, health turns to NOT_SERVING, new calls are refused, and calls in flight have `drain_s` seconds
    to finish. Raises ListenError.
    """
    ensure_free(address)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # Envoy pings an idle connection every few seconds; by default grpc answers that with GOAWAY.
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            # Without this, two processes could share a port by accident, and each would get half the calls.
            ("grpc.so_reuseport", 0),
        ]
    )
    for path, method in methods.items():
        _, service, name = path.split("/")
        # Without serializers the handler gets bytes, so it chooses the status for a malformed message.
        handler = grpc.unary_unary_rpc_method_handler(_handler(path, method))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    services = service_names(methods)
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}") from error
    await server.start()
    for service in ("", *services):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        bound = TcpAddress(address.host, port) if isinstance(address, TcpAddress) else address
        yield Listener(bound, servicer.enter_graceful_shutdown, _never_ends)
    finally:
        await servicer.enter_graceful_shutdown()
        await server.stop(drain_s)
