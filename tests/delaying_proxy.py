"""A TCP proxy that delays data, like a network, and that can cut connections and change its target.

`python -m tests.delaying_proxy PORT TARGET DELAY_S` runs one in a process of its own, which a busy test does
not delay further.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from redis.asyncio import Redis

from ratelimitd.process.loopback import LOOPBACK

ONE_WAY_S = 0.02
"""The delay of a store in another region."""


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
        self.drops_every = 0
        """0, or n: every n-th piece of a reply is dropped, and its connection with it."""
        self._replies = 0
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
                await asyncio.gather(self._forward(reader, here), self._forward(there, writer, replies=True))
        except OSError:
            pass  # a side broke, so the other one is cut below
        finally:
            for transport in transports:
                transport.abort()
                self._transports.discard(transport)
            self._tasks.discard(task)

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool = False
    ) -> None:
        loop = asyncio.get_running_loop()
        while data := await reader.read(65536):
            self._replies += replies
            if replies and self.drops_every and self._replies % self.drops_every == 0:
                raise ConnectionAbortedError
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
async def delaying_proxy(target: int, delay_s: float = 0.0, port: int = 0) -> AsyncIterator[DelayingProxy]:
    """Runs a proxy on this port of loopback, by default a free one, until the end of the block."""
    proxy = DelayingProxy(target, delay_s)
    async with await asyncio.start_server(proxy.accept, LOOPBACK, port) as server:
        proxy.port = server.sockets[0].getsockname()[1]
        yield proxy
        server.close()
        await proxy.ended()


async def distant_url(store: Redis, port: int) -> str:
    """Returns the URL of the store behind a proxy at `port`, with a user and a password."""
    await store.execute_command(  # type: ignore[no-untyped-call] # it is untyped
        "ACL", "SETUSER", "distant", "on", ">secret", "~*", "&*", "+@all"
    )
    return f"redis://distant:secret@{LOOPBACK}:{port}/0"


def port_of(store_url: str) -> int:
    """Returns the port in the URL of a store."""
    return int(store_url.removesuffix("/0").rpartition(":")[2])


async def _run(port: int, target: int, delay_s: float) -> None:
    async with delaying_proxy(target, delay_s, port):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
