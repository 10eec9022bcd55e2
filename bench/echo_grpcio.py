"""Floor of `grpcio`: an echo server on grpc.aio."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import grpc

from bench.echo import METHOD, RESPONSE, SERVICE
from bench.echo_store import StoreCall, open_store_call


def _echo(
    call_store: StoreCall | None,
) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
    async def echo(_payload: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if call_store is not None:
            await call_store()
        return RESPONSE

    return echo


async def serve(address: str) -> None:
    """Serves until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    async with open_store_call() as call_store:
        method = grpc.unary_unary_rpc_method_handler(_echo(call_store))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        server.add_insecure_port(address)
        await server.start()
        await ended.wait()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
