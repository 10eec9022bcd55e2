"""grpc.health.v1.Health: whether this replica should get new calls."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError, not_one_message
from ratelimitd.transport.services import Stream

SERVICE = "grpc.health.v1.Health"


class Health:
    """SERVING for each of `services`, until `leave`, which also calls `on_leave`."""

    def __init__(self, services: Iterable[str], on_leave: Callable[[], None] = lambda: None) -> None:
        self._services = frozenset(services)
        self._on_leave = on_leave
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def methods(self) -> Mapping[str, Stream]:
        """The methods by path. Check is a stream too: it is called seldom."""
        return {f"/{SERVICE}/Check": self.check, f"/{SERVICE}/Watch": self.watch}

    def leave(self) -> None:
        """Turns the status to NOT_SERVING, and sends it to callers of `watch`."""
        self._leaving.set()
        self._on_leave()

    def end(self) -> None:
        """Ends the calls of `watch`."""
        self.leave()
        self._ended.set()

    async def check(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The status of a service. Raises CallError: NOT_FOUND for an unknown one."""
        service = await _service(payloads)
        if service not in self._services:
            raise CallError(GrpcCode.NOT_FOUND, f"unknown service {service!r}")
        yield self._status(service)

    async def watch(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The status now, and again when it changes. Raises CallError for a malformed request."""
        service = await _service(payloads)
        first = self._status(service)
        yield first
        await self._leaving.wait()
        if (second := self._status(service)) != first:
            yield second
        await self._ended.wait()

    def _status(self, service: str) -> bytes:
        status = HealthCheckResponse.NOT_SERVING if self._leaving.is_set() else HealthCheckResponse.SERVING
        if service not in self._services:
            status = HealthCheckResponse.SERVICE_UNKNOWN
        response: bytes = HealthCheckResponse(status=status).SerializeToString()
        return response


async def _service(payloads: AsyncIterator[bytes]) -> str:
    """The name of the service in the HealthCheckRequest. Raises CallError."""
    payload = await anext(payloads, None)
    if payload is None:
        raise not_one_message()
    try:
        service: str = HealthCheckRequest.FromString(payload).service
    except DecodeError as error:
        raise CallError(GrpcCode.INVALID_ARGUMENT, f"the message is not a {SERVICE} request") from error
    return service
