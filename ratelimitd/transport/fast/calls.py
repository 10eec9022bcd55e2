"""The calls that this process serves now. A stop waits until each has its response."""

import asyncio

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.fast.asgi_types import Call, Receive


class CallsInFlight:
    """The calls in flight, by the `receive` that identifies each.

    This keeps them alive: the host holds no reference to the task of a call and asyncio a weak one, so a call
    that waits for something that only the call refers to would be garbage-collected.
    """

    def __init__(self) -> None:
        self.by_receive: dict[Receive, Call] = {}
        self.draining = False
        self._idle = asyncio.Event()

    async def drain(self) -> None:
        """Refuses new calls from now on, and returns once the calls in flight have ended."""
        self.draining = True
        if self.by_receive:
            await self._idle.wait()

    def refuse_if_draining(self) -> None:
        """Raises CallError while draining."""
        if self.draining:
            raise CallError(GrpcCode.UNAVAILABLE, "this replica is shutting down")

    def remove(self, receive: Receive) -> None:
        """Removes a call that has ended or that draining does not wait for."""
        self.by_receive.pop(receive, None)
        if self.draining and not self.by_receive:
            self._idle.set()
