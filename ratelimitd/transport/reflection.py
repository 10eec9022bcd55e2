"""grpc.reflection.v1alpha, with which grpcurl finds services and their types. grpcio-reflection answers."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping, Sequence

from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.services import Stream

SERVICE = "grpc.reflection.v1alpha.ServerReflection"


class Reflection:
    """Describes `services` and the types that they use."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services

    @property
    def methods(self) -> Mapping[str, Stream]:
        """The method by its path."""
        return {f"/{SERVICE}/ServerReflectionInfo": self.info}

    async def info(self, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A response to each ServerReflectionRequest. Raises CallError for a malformed request."""
        # The library imports all of grpc, so it is loaded at the first use, and in a thread: decisions on the
        # event loop must not wait for it.
        library = await asyncio.to_thread(importlib.import_module, "grpc_reflection.v1alpha.reflection")
        servicer = library.aio.ReflectionServicer(self._services)
        async for response in servicer.ServerReflectionInfo(_requests(payloads), None):
            yield response.SerializeToString()


async def _requests(payloads: AsyncIterator[bytes]) -> AsyncIterator[ServerReflectionRequest]:
    async for payload in payloads:
        try:
            yield ServerReflectionRequest.FromString(payload)
        except DecodeError as error:
            raise CallError(GrpcCode.INVALID_ARGUMENT, f"the message is not a {SERVICE} request") from error
