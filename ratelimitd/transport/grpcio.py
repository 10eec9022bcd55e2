"""The reference transport: grpc.aio serves the methods, health and reflection."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from math import inf

import grpc

from ratelimitd.address import Address, UnixAddress
from ratelimitd.bounded_log import BoundedLog
from ratelimitd.certificates import Certificates, ServerTls, read_certificates
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.errors import ListenError
from ratelimitd.process.background import background
from ratelimitd.transport import health, reflection
from ratelimitd.transport.binding import Binding, free_binding, ipv6_port_taken
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.grpcio_server import ended, new_server
from ratelimitd.transport.grpcio_tls import AllowedClients, ChangingCertificates
from ratelimitd.transport.large_message import large_bytes, without
from ratelimitd.transport.listener import Listener
from ratelimitd.transport.rotation import POLL_INTERVAL_S, follow, until_presented
from ratelimitd.transport.services import Stream, Unary, service_names

_RECEIVED_BYTES = 1 << 30
"""grpc receives whole messages, with the fields that their methods do not need."""

_WAITING_MAX_S = 1
"""Seconds that a call may wait in grpc for the event loop. grpc takes whole seconds; the default is 30.

Older calls end at once, in C. After an overload, thousands of calls can wait whose callers have given up.
"""

_CALLS_PER_CONNECTION = 512
"""Calls that a connection may have at a time. grpc refuses further ones in C; by default it has no limit.

Calls of all connections wait in one queue, and grpc ends some of them at random when more than 1000 wait. So
one connection that sends calls without waiting for responses must not reach that number.
"""

_OPTIONS = (
    ("grpc.max_receive_message_length", _RECEIVED_BYTES),
    # Envoy pings an idle connection every few seconds; by default grpc answers that with GOAWAY.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Without this, two processes could share a port by accident, and each would get half the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", _CALLS_PER_CONNECTION),
    ("grpc.server_max_unrequested_time_in_server", _WAITING_MAX_S),
)

_STATUS = {code: grpc.StatusCode[code.name] for code in GrpcCode}


_Context = grpc.aio.ServicerContext[bytes, bytes]


def unary_handler(
    path: str, method: Unary, log: BoundedLog, max_message_bytes: int, clients: AllowedClients | None
) -> Callable[[bytes, _Context], Awaitable[bytes]]:
    """Returns grpc's handler of a method. It ends every call that fails with a status."""
    large = large_bytes(max_message_bytes)

    async def handle(payload: bytes, context: _Context) -> bytes:
        try:
            if clients is not None:
                clients.check(context)
            if len(payload) > large:
                payload = without(payload, method.unneeded, max_message_bytes)
            return method.encode(await method.begin(payload, _traceparent(context), _left_s(context)))
        except CallError as error:
            await context.abort(_STATUS[error.code], str(error))
        except Exception:  # a defect: the caller gets a status, and the traceback goes to the log
            log.exception("call_failed", method=path)
            await context.abort(grpc.StatusCode.INTERNAL, "internal error")

    return handle


def _stream(
    method: Stream, clients: AllowedClients | None
) -> Callable[[AsyncIterator[bytes], _Context], AsyncIterator[bytes]]:
    async def handle(payloads: AsyncIterator[bytes], context: _Context) -> AsyncIterator[bytes]:
        try:
            if clients is not None:
                clients.check(context)
            async for message in method(payloads):
                yield message
        except CallError as error:
            await context.abort(_STATUS[error.code], str(error))

    return handle


def _traceparent(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == "traceparent":
            return str(value)
    return ""


def _left_s(context: _Context) -> float:
    """Returns how long the caller waits from now on, in seconds."""
    time_remaining: Callable[[], float | None] = context.time_remaining  # the stubs omit None: no deadline
    left_s = time_remaining()
    return inf if left_s is None else left_s


def _connection_age(max_connection_age_s: int, drain_s: float) -> Iterable[tuple[str, int]]:
    """The options with which grpc, after this age and 10 % more or less, asks the caller to connect again."""
    if max_connection_age_s:
        yield "grpc.max_connection_age_ms", max_connection_age_s * 1000
        yield "grpc.max_connection_age_grace_ms", int(drain_s * 1000)


@asynccontextmanager
async def serve_grpcio(
    methods: Mapping[str, Unary],
    address: Address,
    *,
    max_message_bytes: int,
    drain_s: float,
    max_connection_age_s: int = 0,
    on_leave: Callable[[], None] = lambda: None,
    tls: ServerTls | None = None,
    tls_poll_interval_s: float = POLL_INTERVAL_S,
    on_certificates: Callable[[Certificates], None] = lambda _: None,
) -> AsyncIterator[Listener]:
    """Serves these methods until the end of the block. The listener's address holds the port actually bound.

    At the end, health turns to NOT_SERVING, new calls are refused, and calls in flight have `drain_s` seconds
    to finish. After `max_connection_age_s` seconds, a caller is asked to connect again; 0 for never.
    `on_leave` is called when health turns to NOT_SERVING. With `tls`, certificates that change are noticed
    within `tls_poll_interval_s` seconds, and `on_certificates` is called when new connections get them.
    Raises ListenError and CertificateError.
    """
    binding = await asyncio.to_thread(free_binding, address)
    certificates = None if tls is None else await asyncio.to_thread(read_certificates, tls.files)
    names = service_names(methods)
    status = health.Health(("", *names), on_leave)
    described = reflection.Reflection((*names, health.SERVICE, reflection.SERVICE))
    clients = AllowedClients(tls.client_names) if tls is not None and tls.client_names else None
    streams = {**status.methods, **described.methods}
    server = new_server(
        dict(_handlers(methods, streams, max_message_bytes, clients)),
        [*_OPTIONS, *_connection_age(max_connection_age_s, drain_s)],
    )
    changing = None if certificates is None else ChangingCertificates(certificates)
    with _only_owner_connects(address):
        _add_ports(server, binding, changing)
    await server.start()
    try:
        async with AsyncExitStack() as stack:
            if tls is not None and certificates is not None and changing is not None:
                use = partial(_use, changing, binding.each[0], on_certificates)
                await use(certificates)
                rotation = follow(tls.files, certificates, use, poll_interval_s=tls_poll_interval_s)
                await stack.enter_async_context(background(rotation))
            yield Listener(binding.address, status.leave, partial(ended, server))
    finally:
        status.end()
        await server.stop(drain_s)


async def _use(
    changing: ChangingCertificates,
    address: Address,
    on_certificates: Callable[[Certificates], None],
    certificates: Certificates,
) -> None:
    changing.use(certificates)
    await until_presented(address, certificates)
    on_certificates(certificates)


def _handlers(
    methods: Mapping[str, Unary],
    streams: Mapping[str, Stream],
    max_message_bytes: int,
    clients: AllowedClients | None,
) -> Iterator[tuple[str, "grpc.RpcMethodHandler[bytes, bytes]"]]:
    log = BoundedLog("ratelimitd.grpcio")
    for path, method in methods.items():
        handler = unary_handler(path, method, log, max_message_bytes, clients)
        yield path, grpc.unary_unary_rpc_method_handler(handler)
    for path, stream in streams.items():
        yield path, grpc.stream_stream_rpc_method_handler(_stream(stream, clients))


@contextmanager
def _only_owner_connects(address: Address) -> Iterator[None]:
    """Gives the Unix socket that the block makes its mode. Until then, only its owner can connect."""
    if not isinstance(address, UnixAddress) or address.mode is None:
        yield
        return
    umask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(umask)
    os.chmod(address.path, address.mode)  # noqa: PTH101 - does not block


def _add_ports(server: grpc.aio.Server, binding: Binding, certificates: ChangingCertificates | None) -> None:
    try:
        for one in binding.each:
            with ipv6_port_taken(one):
                if certificates is None:
                    server.add_insecure_port(str(one))
                else:
                    server.add_secure_port(str(one), certificates.credentials())
    except RuntimeError as error:
        raise ListenError(f"cannot listen on {binding.address}") from error
