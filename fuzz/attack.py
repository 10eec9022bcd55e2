"""Connections that send mutated messages over HTTP/2, and count the messages that the service has read."""

import asyncio
import struct
from contextlib import suppress
from random import Random

from fuzz import calls, wire
from fuzz.calls import CALLS
from fuzz.endings import ENDINGS
from fuzz.http1_talk import Http1Talk
from fuzz.tally import KEPT, Tally
from ratelimitd.address import TcpAddress

CONNECTIONS = 8
"""Connections at a time."""
LENGTHS = (2, 8, 16)
"""Messages of a connection before the one that may end it. With more, the user would wait for them."""
ANSWER_S = 30.0
"""How long a service may take to read the messages of a connection, in seconds."""
_REFUSED_PAUSE_S = 0.05
_MARK = b"the-last"
_WINDOW = wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack("!I", 2**30))
_FIRST = wire.PREFACE + wire.frame(wire.SETTINGS, 0, 0) + _WINDOW


async def attack(address: TcpAddress, seed: str, tally: Tally, *, over_http1: bool = False) -> None:
    """Sends messages over several connections at a time, until `tally` has the wanted number.

    The same seed gives the same messages on each of the connections. `over_http1`: the last of them sends
    checks over HTTP/1.1.
    """
    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            random = Random(f"{seed}-{number}")  # noqa: S311 - not a secret
            is_http1 = over_http1 and number == CONNECTIONS - 1
            group.create_task(_sender(address, random, tally, is_http1=is_http1))


async def _sender(address: TcpAddress, random: Random, tally: Tally, *, is_http1: bool) -> None:
    while tally.messages < tally.wanted and not tally.stuck:
        talk = Http1Talk(random, tally, ANSWER_S) if is_http1 else _Talk(random, tally)
        try:
            reader, writer = await asyncio.open_connection(address.host, address.port)
        except OSError:
            tally.refused += 1
            if tally.refused > KEPT:
                return  # the service has ended
            await asyncio.sleep(_REFUSED_PAUSE_S)
            continue
        tally.connections += 1
        await talk.over(reader, writer)


class _Talk:
    """The messages of one connection: some that it survives, and when they are read, one that may end it.

    The service accepts calls in order, so the response to a valid one shows that it has accepted the others.
    Without it, the attack would be faster than the service, which then refuses calls of all its callers.
    """

    def __init__(self, random: Random, tally: Tally) -> None:
        self._tally = tally
        self._answered = asyncio.Event()
        self._chosen = [random.choice(CALLS) for _ in range(random.choice(LENGTHS))]
        self._last = random.choice(ENDINGS)
        self._valid = 2 * len(self._chosen) + 1  # its stream
        parts = [message(random, 2 * number + 1) for number, message in enumerate(self._chosen)]
        self._first = b"".join((_FIRST, *parts, calls.valid(random, self._valid)))
        self._end = self._last(random, self._valid + 2) + wire.frame(wire.PING, 0, 0, _MARK)

    async def over(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Sends the messages, and closes the connection."""
        reading = asyncio.create_task(self._read(reader))
        try:
            await self._send(writer, reading)
        except OSError:
            self._tally.unread += len(self._chosen)
        finally:
            reading.cancel()
            writer.transport.abort()
            await asyncio.wait((reading,))

    async def _send(self, writer: asyncio.StreamWriter, reading: asyncio.Task[None]) -> None:
        sent = bytearray(self._first)
        self._tally.sent.append(sent)
        writer.write(self._first)
        if not await self._until_answered(reading):
            self._lost(reading, len(self._chosen))
            return
        self._tally.add(self._chosen)
        self._answered.clear()
        sent += self._end
        writer.write(self._end)
        writer.write_eof()  # the message may be the beginning of a longer frame
        if await self._until_answered(reading) or reading.done():
            self._tally.add([self._last])
        else:
            self._lost(reading, 1)

    def _lost(self, reading: asyncio.Task[None], messages: int) -> None:
        self._tally.unread += messages
        self._tally.stuck += not reading.done()

    async def _until_answered(self, reading: asyncio.Task[None]) -> bool:
        """Waits for the answer or the end of the connection. Returns whether it was the answer."""
        waiting = asyncio.create_task(self._answered.wait())
        await asyncio.wait((waiting, reading), timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return self._answered.is_set()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        data = bytearray()
        with suppress(OSError):
            while chunk := await reader.read(65536):
                data += chunk
                for kind, flags, stream, payload in wire.frames_in(data):
                    if kind == wire.GOAWAY:
                        return
                    ended = kind == wire.HEADERS and bool(flags & wire.END_STREAM)
                    self._tally.responses += ended
                    refused = kind == wire.RST_STREAM  # under overload
                    if ((ended or refused) and stream == self._valid) or (
                        kind == wire.PING and payload == _MARK
                    ):
                        self._answered.set()
