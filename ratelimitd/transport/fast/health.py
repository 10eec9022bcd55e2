"""grpc.health.v1.Health: whether this replica should get new calls."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport.call_error import CallError

SERVICE = "grpc.health.v1.Health"


def decode(payload: bytes, _traceparent: str) -> str:
    """The name of the service in a HealthCheckRequest. Raises MalformedRequestError."""
    try:
        service: str = HealthCheckRequest.FromString(payload).service
    except DecodeError as error:
        raise MalformedRequestError(f"the message is not a {SERVICE} request") from error
    return service


class Health:
    """SERVING for each of `services`, until `leave`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()

    def leave(self) -> None:
        """Turns the status to NOT_SERVING, and sends it to callers of `watch`."""
        self._leaving.set()

    def end(self) -> None:
        """Ends the calls of `watch`."""
        self._leaving.set()
        self._ended.set()

    async def check(self, service: str) -> bytes:
        """The status of a service. Raises CallError: NOT_FOUND for an unknown one."""
        if service not in self._services:
            raise CallError(GrpcCode.NOT_FOUND, f"unknown service {service!r}")
        return self._status(service)

    async def watch(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The status now, and again when it changes. Raises CallError for a malformed request."""
        try:
            service = decode(await anext(payloads), "")
        except MalformedRequestError as error:
            raise CallError(GrpcCode.INVALID_ARGUMENT, str(error)) from error
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
