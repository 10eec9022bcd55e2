"""Connections that send mutated checks over HTTP/1.1."""

import asyncio
import re
from contextlib import suppress
from random import Random

from fuzz.http1 import HTTP1_ENDINGS, Http1Message, http1_check
from fuzz.tally import Tally

_LONGEST = 4
"""The most checks that a connection sends at once before the message that may end it."""
_INCOMPLETE_S = 0.05
"""How long a message may take to get a response before the connection is half-closed, because it has none."""
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5])")
_ALLOWED = re.compile(rb"HTTP/1\.1 200 [^\r]*\r\n((?:[^\r]+\r\n)*)\r\n")
_DECIDED = (b"ratelimit-policy:", b"grpc-status:")
"""A header of each allowed response, and one of gRPC errors, which only checks with a wrong path get."""


class Http1Talk:
    """The messages of one connection: some checks, and when they have responses, a message that may end it.

    Args:
        random: makes the messages.
        tally: counts them.
        answer_s: how long the service may take, in seconds.
    """

    def __init__(self, random: Random, tally: Tally, answer_s: float) -> None:
        self._tally = tally
        self._answer_s = answer_s
        self._count = random.randint(1, _LONGEST)
        self._last = random.choice(HTTP1_ENDINGS)
        self._first = b"".join(http1_check(random) for _ in range(self._count))
        self._end = self._last(random)
        self._data = bytearray()

    async def over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends the messages, and closes the connection."""
        checks: list[Http1Message] = [http1_check] * self._count
        sent = bytearray(self._first)
        self._tally.sent.append(sent)
        try:
            writer.write(self._first)
            if not await self._responses(reader, self._count, self._answer_s):
                self._tally.unread += self._count
                return
            self._tally.add(checks)
            sent += self._end
            writer.write(self._end)
            await self._responses(reader, self._count + 1, _INCOMPLETE_S)
            writer.write_eof()
            ended = await self._responses(reader, None, self._answer_s)
            self._tally.add([self._last] if ended else [])
        except OSError:
            self._tally.unread += 1
        finally:
            self._tally.responses += len(_STATUS.findall(self._data))
            self._tally.undecided += sum(
                not any(name in fields for name in _DECIDED) for fields in _ALLOWED.findall(self._data)
            )
            writer.transport.abort()

    async def _responses(self, reader: asyncio.StreamReader, count: int | None, timeout_s: float) -> bool:
        """Waits for so many responses in all, or for the end. Returns whether it has come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while count is None or len(_STATUS.findall(self._data)) < count:
                    chunk = await reader.read(65536)
                    if not chunk:
                        return count is None
                    self._data += chunk
                return True
        self._tally.stuck += timeout_s == self._answer_s
        return False
