"""A TCP proxy that delays data, like a network, and that can cut connections and change its target."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from ratelimitd.process.loopback import LOOPBACK


class DelayingProxy:
    """Forwards connections to a port of loopback. Data arrives in order, each piece `delay_s` later.

    Its attributes may be changed at any time.
    """

    def __init__(self, target: int, delay_s: float) -> None:
        self.target = target
        self.delay_s = delay_s
        self.port = 0
        self.connections = 0
        self.refuses = False
        self._transports: set[asyncio.Transport] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until one of its sides ends."""
        self.connections += 1
        transports = [cast("asyncio.Transport", writer.transport)]
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.refuses:
                there, here = await asyncio.open_connection(LOOPBACK, self.target)
                transports.append(cast("asyncio.Transport", here.transport))
                self._transports.update(transports)
                await asyncio.gather(self._forward(reader, here), self._forward(there, writer))
        except OSError:
            pass  # a side broke, so the other one is cut below
        finally:
            for transport in transports:
                transport.abort()
                self._transports.discard(transport)
            self._tasks.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            loop.call_later(self.delay_s, writer.write, data)
        loop.call_later(self.delay_s, writer.close)

    def cut(self) -> None:
        """Resets all connections."""
        for transport in self._transports:
            transport.abort()

    async def ended(self) -> None:
        """Resets all connections and waits until they have ended."""
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def delaying_proxy(target: int, delay_s: float = 0.0) -> AsyncIterator[DelayingProxy]:
    """Runs a proxy on a free port of loopback until the end of the block."""
    proxy = DelayingProxy(target, delay_s)
    async with await asyncio.start_server(proxy.accept, LOOPBACK, 0) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        server.close()
        await proxy.ended()
