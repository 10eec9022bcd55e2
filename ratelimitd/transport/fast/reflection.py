"""grpc.reflection.v1alpha: what grpcurl asks first. The answers are grpcio-reflection's own."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Sequence

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.fast.framing import CallError

SERVICE = "grpc.reflection.v1alpha.ServerReflection"


class Reflection:
    """Describes `services` and the types that they use."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services

    async def info(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """An answer to each ServerReflectionRequest. Raises CallError for bytes that are none."""
        # It imports all of grpc, which a service that nobody explores does not need, and not on the event
        # loop: decisions must not wait for it.
        library = await asyncio.to_thread(importlib.import_module, "grpc_reflection.v1alpha.reflection")
        servicer = library.aio.ReflectionServicer(self._services)
        async for response in servicer.ServerReflectionInfo(_requests(payloads), None):
            yield response.SerializeToString()


async def _requests(payloads: AsyncIterator[bytes]) -> AsyncIterator[ServerReflectionRequest]:
    async for payload in payloads:
        try:
            yield ServerReflectionRequest.FromString(payload)
        except DecodeError as error:
            raise CallError(GrpcCode.INVALID_ARGUMENT, f"the message is no {SERVICE} request") from error
