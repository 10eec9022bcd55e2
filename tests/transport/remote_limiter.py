"""A limiter in the process of the test, for a service in another process.

Each request is one connection: a pickled TakeRequest, answered with an outcome or an exception. A log event
of the service is sent the same way, answered with None, and logged again in the process of the test.
"""

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter


@asynccontextmanager
async def answering(limiter: Limiter, path: Path) -> AsyncIterator[None]:
    """Serves the limiter at the Unix socket `path` until the end of the block."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        answers.add(task)
        try:
            message = pickle.loads(await reader.read())  # noqa: S301 - the test's own process wrote it
            writer.write(pickle.dumps(await _answer(limiter, message)))
        finally:
            writer.close()

    answers: set[asyncio.Task[None]] = set()
    async with await asyncio.start_unix_server(answer, path):
        yield
        for task in answers:
            task.cancel()  # it may wait for a test that is over
        await asyncio.gather(*answers, return_exceptions=True)


async def _answer(limiter: Limiter, message: str | TakeRequest) -> Outcome | Exception | None:
    if isinstance(message, str):
        structlog.get_logger().error(message)
        return None
    try:
        return await limiter.take(message)
    except Exception as error:  # noqa: BLE001 - the other side raises it again
        return error


class RemoteLimiter:
    """The limiter that `answering` serves at a Unix socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome of the test's limiter, or raises its exception."""
        reader, writer = await asyncio.open_unix_connection(self._path)
        writer.write(pickle.dumps(request))
        writer.write_eof()
        reply = pickle.loads(await reader.read())  # noqa: S301 - the test wrote it
        writer.close()
        if isinstance(reply, Exception):
            raise reply
        outcome: Outcome = reply
        return outcome

    def log(self, _logger: object, _method: str, line: MutableMapping[str, Any]) -> str:
        """Sends the event to the test and waits until it is logged there. A structlog processor."""
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(self._path)
            link.sendall(pickle.dumps(line["event"]))
            link.shutdown(socket.SHUT_WR)
            link.recv(1)
        return ""
