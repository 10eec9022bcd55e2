"""A grpc.aio server that serves a fixed table of methods, and that no path of a call can end.

grpc's core compares the paths of registered methods as bytes. Any other path is decoded as UTF-8 by grpc.aio
1.85, outside of any handler, in the task that accepts calls: one path that is not UTF-8 would end the server.
So every method is registered, and any other call is refused without a look at its path.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined] # it has no types

_POLL_INTERVAL_S = 1.0


class _AioServer(cygrpc.AioServer):  # type: ignore[misc] # it has no types
    async def _request_call(self) -> Any:
        """Refuses each call of an unknown method. Raises when the server stops."""
        refusals = set[asyncio.Task[None]]()  # a task without a reference may be garbage-collected
        while True:
            task = asyncio.create_task(_refuse(await super()._request_call()))
            refusals.add(task)
            task.add_done_callback(refusals.discard)


async def _refuse(state: Any) -> None:
    context = cygrpc._ServicerContext(state, None, None, asyncio.get_running_loop())  # noqa: SLF001
    with suppress(grpc.aio.BaseError):  # the end of an aborted call, or the caller has left
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")


@contextmanager
def _aio_server() -> Iterator[None]:
    """Lets grpc.aio.server make a server of the class above, which is not one of its arguments."""
    original = cygrpc.AioServer
    cygrpc.AioServer = _AioServer
    try:
        yield
    finally:
        cygrpc.AioServer = original


def new_server(
    methods: Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"], options: Iterable[tuple[str, Any]]
) -> grpc.aio.Server:
    """Returns a server of these methods, by path. Without serializers, handlers take and return bytes."""
    with _aio_server():
        server = grpc.aio.server(options=tuple(options))
    for path, handler in methods.items():
        _, service, name = path.split("/")
        server.add_registered_method_handlers(service, {name: handler})  # type: ignore[attr-defined] # since 1.85
    return server


async def ended(server: grpc.aio.Server) -> str:
    """Returns when the server has ended without a call of `stop`, with a sentence that says why."""
    try:
        # A call without a timeout would, when it is cancelled, also cancel the future that `stop` waits for.
        while await server.wait_for_termination(_POLL_INTERVAL_S):
            pass
    except Exception as error:  # noqa: BLE001 - whatever has ended the server
        return f"the gRPC server ended by itself: {error}"
    return "the gRPC server ended by itself"
