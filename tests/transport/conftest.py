"""One suite for every transport: a service over the ports in memory, reached as a client reaches it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from ratelimitd.core.check import Check
from ratelimitd.core.identity import parse_sources
from ratelimitd.core.model import OnStoreError
from ratelimitd.core.ports import Limiter
from ratelimitd.transport.grpcio import serve_grpcio
from ratelimitd.transport.listen import Address, Listener, TcpAddress, UnixAddress
from tests.core.fakes import FixedPolicies, OracleLimiter

MAX_MESSAGE_BYTES = 16_384
DRAIN_S = 5.0


class Serve(Protocol):
    """Starts a transport over a limiter."""

    def __call__(
        self,
        limiter: Limiter,
        address: Address = ...,
        on_store_error: OnStoreError = ...,
        drain_s: float = ...,
    ) -> AbstractAsyncContextManager[Listener]:
        """The listener while it serves."""
        ...


@dataclass(frozen=True)
class Service:
    """A service that is up, and the buckets behind it."""

    address: TcpAddress
    limiter: OracleLimiter


@pytest.fixture(params=["grpcio"])
def serve(request: pytest.FixtureRequest) -> Serve:
    """Starts the transport under test."""
    start = {"grpcio": serve_grpcio}[request.param]

    def serve_with(
        limiter: Limiter,
        address: Address = TcpAddress("127.0.0.1", 0),  # noqa: B008 - immutable
        on_store_error: OnStoreError = OnStoreError.DENY,
        drain_s: float = DRAIN_S,
    ) -> AbstractAsyncContextManager[Listener]:
        check = Check(
            policies=FixedPolicies(),
            limiter=limiter,
            sources=parse_sources("header:x-user-id,address", None),
            key_prefix="rate",
            on_store_error=on_store_error,
        )
        return start(check, address, max_message_bytes=MAX_MESSAGE_BYTES, drain_s=drain_s)

    return serve_with


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    """A service on a port of the system's choosing."""
    limiter = OracleLimiter()
    async with serve(limiter) as listener:
        assert isinstance(listener.address, TcpAddress)
        yield Service(listener.address, limiter)


@pytest.fixture
def socket_path(tmp_path: Path) -> UnixAddress:
    """A Unix socket that does not exist yet."""
    return UnixAddress(str(tmp_path / "r.sock"))
