"""The reference transport: grpc.aio serves Check, health and reflection. No traceback reaches a caller."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ratelimitd.address import Address, TcpAddress
from ratelimitd.core.model import Answer, Request
from ratelimitd.errors import ListenError, MalformedRequestError
from ratelimitd.transport.ext_authz import SERVICE, decode, encode
from ratelimitd.transport.listener import Listener, ensure_free


def _check_handler(
    check: Callable[[Request], Awaitable[Answer]],
) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
    log = structlog.get_logger("ratelimitd.grpcio")

    async def handle(payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            return encode(await check(decode(payload)))
        except MalformedRequestError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception:  # a defect of ours: Envoy obeys its failure_mode_allow
            log.exception("check_broke")
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return handle


async def _never() -> str:
    """It lives in this process, so it does not end by itself."""
    await asyncio.Event().wait()
    return ""


@asynccontextmanager
async def serve_grpcio(
    check: Callable[[Request], Awaitable[Answer]],
    address: Address,
    *,
    max_message_bytes: int,
    drain_s: float,
) -> AsyncIterator[Listener]:
    """Serves until the end of the block. The listener's address has the port that was had.

    At the end health says NOT_SERVING, no new call is taken, and calls in flight have `drain_s` to finish.
    Raises ListenError.
    """
    ensure_free(address)
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # Envoy pings an idle connection every few seconds; by default that ends it with GOAWAY.
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.so_reuseport", 0),  # else two processes share a port by accident, each with half the calls
        ]
    )
    # Bytes in and out: a message that does not parse is then ours to answer, not an INTERNAL of grpc's.
    method = grpc.unary_unary_rpc_method_handler(_check_handler(check))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Check": method}),))
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined] # the stubs lack it
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(str(address))
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {address}") from error
    await server.start()
    for service in ("", SERVICE):
        await servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        had = TcpAddress(address.host, port) if isinstance(address, TcpAddress) else address
        yield Listener(had, servicer.enter_graceful_shutdown, _never)
    finally:
        await servicer.enter_graceful_shutdown()
        await server.stop(drain_s)
