"""A server whose replies a test chooses, links to it, and a clock that a test moves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hiredis import Reader

from ratelimitd.store.client import connector
from ratelimitd.store.link import Link
from tests.eventually import WAIT_S, eventually
from tests.script_limiter import complete


class Clock:
    """A clock in seconds that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._reads = 0

    def __call__(self) -> float:
        """Returns the time."""
        self._reads += 1
        return self.now_s

    async def was_read(self, times: int) -> None:
        """Returns once the clock was read `times` more times."""
        reads = self._reads + times

        async def enough() -> bool:
            return self._reads >= reads

        await eventually(enough, "the clock is read")


class Server:
    """A server that completes a store's handshake. The test replies to all other commands."""

    def __init__(self) -> None:
        self.connections = 0
        self.ready = asyncio.Event()
        self.ready.set()
        self.handshake_reply = b"+OK\r\n"
        self.handshake: list[bytes] = []
        self.closed = 0
        self.writer: asyncio.StreamWriter | None = None
        self._calls: asyncio.Queue[tuple[bytes, asyncio.StreamWriter]] = asyncio.Queue()
        self._talks: set[asyncio.Task[None]] = set()

    async def call(self) -> tuple[bytes, asyncio.StreamWriter]:
        """Returns the next command and the writer for its reply."""
        return await self._calls.get()

    async def calls(self, number: int) -> asyncio.StreamWriter:
        """Returns the writer once `number` more commands arrived."""
        for _ in range(number):
            _, writer = await self.call()
        return writer

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection."""
        self.connections += 1
        self.writer = writer
        talk = asyncio.get_running_loop().create_task(self._talk(reader, writer))
        self._talks.add(talk)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = Reader()
        with suppress(ConnectionError):
            while received := await reader.read(65536):
                commands.feed(received)
                replies = b""
                while (command := commands.gets()) is not False:
                    if command[0] in (b"AUTH", b"CLIENT", b"HELLO", b"INFO", b"SELECT"):
                        self.handshake.append(b" ".join(command))
                        await self.ready.wait()
                        replies += self.handshake_reply
                    else:
                        self._calls.put_nowait((b" ".join(command), writer))
                writer.write(replies)
        self.closed += 1
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def ended(self) -> None:
        """Waits until every connection is closed; it hangs if a link leaves one open."""
        self.ready.set()
        await asyncio.gather(*self._talks)


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Server]:
    """Runs a server on a Unix socket."""
    server = Server()
    async with await asyncio.start_unix_server(server.accept, path):
        yield server
        await server.ended()  # before the block's own wait, which from Python 3.12 on includes connections


def opened(
    path: Path, clock: Callable[[], float] | None = None, silence_s: float = WAIT_S, **options: Any
) -> Link:
    """Returns a link to that Unix socket, with a clock that stands still, so that no connection is idle."""
    return Link(connector(f"unix://{path}"), now_s=clock or Clock(), silence_s=silence_s, **options)


async def opened_again(link: Link, connections: int) -> None:
    """Waits until the link has opened that many connections."""

    async def enough() -> bool:
        return link.opened >= connections

    await eventually(enough, f"the link opens connection {connections}")


async def execute(link: Link, *arguments: Any) -> Any:
    """Returns the reply to one command, or raises the error that came instead."""
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    link.call(arguments, lambda answer: complete(reply, answer))
    return await reply
