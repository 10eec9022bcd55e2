"""Fixtures that run a service over a limiter in memory, with each transport."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
import pytest

from ratelimitd.address import Address, TcpAddress, UnixAddress
from ratelimitd.certificates import ClientTls, ServerTls
from ratelimitd.core.model import OnStoreError
from ratelimitd.core.ports import Limiter
from ratelimitd.transport.channel import credentials, options
from ratelimitd.transport.fast.supervisor import serve_hosted
from ratelimitd.transport.grpcio import serve_grpcio
from ratelimitd.transport.listener import Listener
from tests.core.fakes import OracleLimiter
from tests.transport import hosted_application, remote_limiter
from tests.transport.service_under_test import MAX_MESSAGE_BYTES, methods_over

DRAIN_S = 5.0
TLS_POLL_INTERVAL_S = 0.05
ANY_PORT = TcpAddress("127.0.0.1", 0)


class Serve(Protocol):
    """Starts a transport over a limiter."""

    def __call__(
        self,
        limiter: Limiter,
        address: Address = ...,
        on_store_error: OnStoreError = ...,
        drain_s: float = ...,
        tls: ServerTls | None = ...,
    ) -> AbstractAsyncContextManager[Listener]:
        """Yields the listener."""
        ...


@dataclass(frozen=True)
class TlsAddress(TcpAddress):
    """An address at which the tests use TLS."""

    tls: ClientTls


def channel_to(address: Address) -> grpc.aio.Channel:
    """Returns a channel to a service, with TLS for a TlsAddress."""
    tls = address.tls if isinstance(address, TlsAddress) else None
    with_tls = credentials(tls, address)
    if with_tls is None:
        return grpc.aio.insecure_channel(str(address))
    return grpc.aio.secure_channel(str(address), with_tls, options(tls))


@dataclass(frozen=True)
class Service:
    """A running service and its limiter."""

    address: TcpAddress
    limiter: OracleLimiter


def serve_in_process(
    limiter: Limiter,
    address: Address = ANY_PORT,
    on_store_error: OnStoreError = OnStoreError.DENY,
    drain_s: float = DRAIN_S,
    tls: ServerTls | None = None,
) -> AbstractAsyncContextManager[Listener]:
    """Starts the transport grpcio."""
    methods = methods_over(limiter, on_store_error).unary
    return serve_grpcio(
        methods,
        address,
        max_message_bytes=MAX_MESSAGE_BYTES,
        drain_s=drain_s,
        tls=tls,
        tls_poll_interval_s=TLS_POLL_INTERVAL_S,
    )


@pytest.fixture
def serve_in_envoy(tmp_path: Path) -> Serve:
    """Starts the transport fast. The service runs in another process, its limiter in this one."""
    return serving_in_envoy(tmp_path)


def serving_in_envoy(folder: Path) -> Serve:
    """Returns what starts the transport fast, with its files in `folder`."""

    @asynccontextmanager
    async def serve(
        limiter: Limiter,
        address: Address = ANY_PORT,
        on_store_error: OnStoreError = OnStoreError.DENY,
        drain_s: float = DRAIN_S,
        tls: ServerTls | None = None,
    ) -> AsyncIterator[Listener]:
        socket = folder / "limiter.sock"
        environ = os.environ | {
            hosted_application.SOCKET: str(socket),
            hosted_application.ON_STORE_ERROR: on_store_error,
            hosted_application.DRAIN_S: str(drain_s),
        }
        async with (
            remote_limiter.answering(limiter, socket),
            serve_hosted(
                f"{hosted_application.__name__}:application",
                address,
                environ=environ,
                drain_s=drain_s,
                tls=tls,
                tls_poll_interval_s=TLS_POLL_INTERVAL_S,
            ) as up,
        ):
            yield up

    return serve


@pytest.fixture(params=["grpcio", "fast"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts the transport under test."""
    if request.param == "grpcio":
        return serve_in_process
    in_envoy: Serve = request.getfixturevalue("serve_in_envoy")
    return in_envoy


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    """Runs a service on a free port."""
    limiter = OracleLimiter()
    async with serve(limiter) as listener:
        assert isinstance(listener.address, TcpAddress)
        yield Service(listener.address, limiter)


@pytest.fixture
def socket_path(tmp_path: Path) -> UnixAddress:
    """Returns the address of a Unix socket that does not exist yet."""
    return UnixAddress(str(tmp_path / "r.sock"))
