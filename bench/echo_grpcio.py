"""The floor of `grpcio`: a grpc.aio service that reads a message and answers a fixed one."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable

import grpc

from bench.asking import Ask, asking
from bench.echo import ANSWER, METHOD, SERVICE


def _echo(ask: Ask | None) -> Callable[[bytes, grpc.aio.ServicerContext[bytes, bytes]], Awaitable[bytes]]:
    async def echo(_payload: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if ask is not None:
            await ask()
        return ANSWER

    return echo


async def serve(address: str) -> None:
    """Answers until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    async with asking() as ask:
        method = grpc.unary_unary_rpc_method_handler(_echo(ask))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
        server.add_insecure_port(address)
        await server.start()
        await ended.wait()
        await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
