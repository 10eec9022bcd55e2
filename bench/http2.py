"""As much HTTP/2 as a load needs: unary gRPC calls, frames built and read by hand (RFC 9113).

A client that can do everything costs 300 us a call, more than what is measured here. This one costs as little
as h2load: requests differ in a few bytes only, and answers are looked at without being decoded. The peer is
told to use no dynamic table (HEADER_TABLE_SIZE 0), so equal trailers are equal bytes and can be counted.
"""

import socket
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from time import perf_counter_ns

from hpack import Encoder

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS = 1, 3
_HEADER = 9
_WIDEST = 2**31 - 1
_FIRST_WINDOW = 65535
_READ_BYTES = 1 << 18
_SETTING_BYTES = 6
_TABLE_BYTES = 512

BODY_BYTES = 9
"""How much of an answer is kept: gRPC's prefix of 5 bytes, and what tells allowed from denied."""

Answers = Counter[tuple[bytes, bytes]]
"""How often an answer began with these bytes and ended with this block of trailers."""


class LoadError(Exception):
    """A load that did not go as it must: its figures would be worthless."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream.to_bytes(4), payload)


# HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE: the peer never waits for us
_HELLO = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0, bytes.fromhex("0001 00000000 0002 00000000 0004 7fffffff"))
    + frame(WINDOW_UPDATE, 0, 0, (_WIDEST - _FIRST_WINDOW).to_bytes(4))
)


class Connection:
    """Calls of one gRPC method on one connection.

    Args:
        address: whom to call.
        path: the method, `/SERVICE/METHOD`.
        messages: what to send, one after the other, each with gRPC's prefix.
        answers: where answers are counted.
        took_ns: where the time of each call goes.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        messages: Iterator[bytes],
        answers: Answers,
        took_ns: list[int],
    ) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_HELLO)
        self.max_streams: int | None = None
        self._blocks = _request_blocks(path, f"{address[0]}:{address[1]}")
        self._messages, self._answers, self._took_ns = messages, answers, took_ns
        self._started: dict[int, int] = {}
        self._bodies: dict[int, bytes] = {}
        self._rest = b""
        self._next_stream = 1
        self._window = _FIRST_WINDOW

    def greet(self) -> None:
        """Returns once the peer has said how many calls it takes at once."""
        while self.max_streams is None:
            self.receive()

    def start(self, calls: int) -> None:
        """Begins so many calls."""
        now = perf_counter_ns()
        parts: list[bytes] = []
        for _ in range(calls):
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            body = next(self._messages)
            self._window -= len(body)
            parts += (
                frame(HEADERS, END_HEADERS, stream, next(self._blocks)),
                frame(DATA, END_STREAM, stream, body),
            )
            self._started[stream] = now
        if self._window < 0:
            raise LoadError("the peer took too few bytes: its flow-control window is used up")
        self.socket.sendall(b"".join(parts))

    def receive(self) -> int:
        """Reads what has come, and waits when nothing has. The number of calls that ended."""
        got = self.socket.recv(_READ_BYTES)
        if not got:
            raise LoadError("the peer closed the connection")
        data = self._rest + got
        at, ended, now = 0, 0, perf_counter_ns()
        while len(data) - at >= _HEADER:
            end = at + _HEADER + int.from_bytes(data[at : at + 3])
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + _HEADER])
            payload = data[at + _HEADER : end]
            at = end
            if kind == DATA and not flags & END_STREAM:
                self._bodies[stream] = (self._bodies.get(stream, b"") + payload)[:BODY_BYTES]
            elif kind == HEADERS and flags & END_STREAM:
                self._took_ns.append(now - self._started.pop(stream))
                self._answers[self._bodies.pop(stream, b""), payload] += 1
                ended += 1
            elif kind != HEADERS:
                self._control(kind, flags, stream, payload)
        self._rest = data[at:]
        return ended

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._settings(payload)
            self.socket.sendall(frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.socket.sendall(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)
        elif kind in {DATA, RST_STREAM, GOAWAY}:
            raise LoadError(f"the peer cut a call off: frame {kind}, {payload[:80]!r}")

    def _settings(self, payload: bytes) -> None:
        self.max_streams = _WIDEST
        for at in range(0, len(payload), _SETTING_BYTES):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == HEADER_TABLE_SIZE and value < _TABLE_BYTES:
                raise LoadError(
                    f"the peer remembers {value} bytes of headers; this load needs {_TABLE_BYTES}"
                )
            if name == MAX_CONCURRENT_STREAMS:
                self.max_streams = value


def _request_blocks(path: str, authority: str) -> Iterator[bytes]:
    """The headers of a connection's first call, and then of every other: those refer to the first."""
    encoder = Encoder()
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    yield encoder.encode(headers)
    yield from repeat(encoder.encode(headers))
