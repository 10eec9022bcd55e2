"""Fixtures that run a service over a limiter in memory, with each transport."""

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ratelimitd.address import Address, TcpAddress, UnixAddress
from ratelimitd.core.model import OnStoreError
from ratelimitd.core.ports import Limiter
from ratelimitd.transport.fast.supervisor import serve_hosted
from ratelimitd.transport.grpcio import serve_grpcio
from ratelimitd.transport.listener import Listener
from tests.core.fakes import OracleLimiter
from tests.transport import hosted_application, remote_limiter
from tests.transport.service_under_test import MAX_MESSAGE_BYTES, methods_over

DRAIN_S = 5.0
ANY_PORT = TcpAddress("127.0.0.1", 0)


class Serve(Protocol):
    """Starts a transport over a limiter."""

    def __call__(
        self,
        limiter: Limiter,
        address: Address = ...,
        on_store_error: OnStoreError = ...,
        drain_s: float = ...,
    ) -> AbstractAsyncContextManager[Listener]:
        """Yields the listener."""
        ...


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
) -> AbstractAsyncContextManager[Listener]:
    """Starts the transport grpcio."""
    methods = methods_over(limiter, on_store_error)
    return serve_grpcio(methods, address, max_message_bytes=MAX_MESSAGE_BYTES, drain_s=drain_s)


@pytest.fixture
def serve_in_envoy(tmp_path: Path) -> Serve:
    """Starts the transport fast. The service runs in another process, its limiter in this one."""

    @asynccontextmanager
    async def serve(
        limiter: Limiter,
        address: Address = ANY_PORT,
        on_store_error: OnStoreError = OnStoreError.DENY,
        drain_s: float = DRAIN_S,
    ) -> AsyncIterator[Listener]:
        socket = tmp_path / "limiter.sock"
        environ = os.environ | {
            hosted_application.SOCKET: str(socket),
            hosted_application.ON_STORE_ERROR: on_store_error,
            hosted_application.DRAIN_S: str(drain_s),
        }
        async with (
            remote_limiter.answering(limiter, socket),
            serve_hosted(
                f"{hosted_application.__name__}:application", address, environ=environ, drain_s=drain_s
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
