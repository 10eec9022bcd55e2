"""Calls Check of a running service again and again, and counts the answers."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.services import CHECK
from tests.eventually import eventually

CALLERS = 4
PAUSE_S = 0.002
"""The pause between two calls of a caller, which leaves the cores to the service."""


class Load:
    """The answers so far: how many allowed the request, and how many had each other HTTP status."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()

    async def more(self, number: int = 50) -> None:
        """Waits until so many more calls were answered."""
        wanted = self.statuses.total() + number

        async def answered() -> bool:
            return self.statuses.total() >= wanted

        await eventually(answered, f"{number} more answers")

    async def until(self, status: int) -> None:
        """Waits until a call was answered with this HTTP status."""

        async def answered() -> bool:
            return self.statuses[status] > 0

        await eventually(answered, f"an answer {status}")


@asynccontextmanager
async def load_on(target: str) -> AsyncIterator[Load]:
    """Calls the service at HOST:PORT for one user until the end of the block."""
    load, ended = Load(), asyncio.Event()
    request = CheckRequest()
    request.attributes.request.http.method, request.attributes.request.http.path = "GET", "/api/x"
    request.attributes.request.http.headers["x-user-id"] = "u1"

    async def call(channel: grpc.aio.Channel) -> None:
        check = channel.unary_unary(
            CHECK,
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        while not ended.is_set():
            reply = await check(request, wait_for_ready=True, timeout=20)
            load.statuses[reply.denied_response.status.code or 200] += 1
            await asyncio.sleep(PAUSE_S)

    async with grpc.aio.insecure_channel(target) as channel, asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call(channel))
        try:
            yield load
        finally:
            ended.set()
