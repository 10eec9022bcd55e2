"""grpc.health.v1.Health: whether new calls should come here."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.fast.framing import CallError

SERVICE = "grpc.health.v1.Health"


class Health:
    """SERVING for each of `services`, until `leave`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(services)
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()

    def leave(self) -> None:
        """From now on the answer is NOT_SERVING, and those who watch are told."""
        self._leaving.set()

    def end(self) -> None:
        """Ends the calls of those who watch."""
        self._leaving.set()
        self._ended.set()

    async def check(self, payload: bytes) -> bytes:
        """The status of the service in a HealthCheckRequest. Raises CallError: NOT_FOUND for one not here."""
        service = _service(payload)
        if service not in self._services:
            raise CallError(GrpcCode.NOT_FOUND, f"there is no service {service!r} here")
        return self._status(service)

    async def watch(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The status now, and again when it changes."""
        service = _service(await anext(payloads))
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
        answer: bytes = HealthCheckResponse(status=status).SerializeToString()
        return answer


def _service(payload: bytes) -> str:
    try:
        service: str = HealthCheckRequest.FromString(payload).service
    except DecodeError as error:
        raise CallError(GrpcCode.INVALID_ARGUMENT, f"the message is no {SERVICE} request") from error
    return service
