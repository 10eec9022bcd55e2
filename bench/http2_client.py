"""Minimal HTTP/2 client for unary gRPC calls, with frames built and parsed by hand (RFC 9113).

A complete client costs 300 us per call, more than the service under test. This one costs as little as h2load:
requests differ in a few bytes only, and responses are counted without being decoded. The client disables the
server's dynamic header table (HEADER_TABLE_SIZE 0), so equal trailers are equal bytes.
"""

import socket
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from time import perf_counter_ns

from hpack import Encoder

from bench.errors import BenchError

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS = 4
HEADER_TABLE_SIZE, MAX_CONCURRENT_STREAMS = 1, 3
_FRAME_HEADER_BYTES = 9
_MAX_WINDOW = 2**31 - 1
_FIRST_WINDOW = 65535
_READ_BYTES = 1 << 18
_SETTING_BYTES = 6
_TABLE_BYTES = 512

BODY_BYTES = 9
"""Bytes of a response that are kept: gRPC's prefix of 5 bytes and the field that holds the decision."""

ResponseCounts = Counter[tuple[bytes, bytes]]
"""Number of responses by (first bytes of the body, trailers)."""


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Encodes one frame."""
    return b"%b%c%c%b%b" % (len(payload).to_bytes(3), kind, flags, stream.to_bytes(4), payload)


# HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, INITIAL_WINDOW_SIZE: the server never waits for a window update
_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + frame(SETTINGS, 0, 0, bytes.fromhex("0001 00000000 0002 00000000 0004 7fffffff"))
    + frame(WINDOW_UPDATE, 0, 0, (_MAX_WINDOW - _FIRST_WINDOW).to_bytes(4))
)


class Connection:
    """One connection that makes calls of one gRPC method.

    Args:
        address: host and port of the server.
        path: the method, `/SERVICE/METHOD`.
        bodies: the messages to send, each with gRPC's prefix.
        responses: counter that this connection adds its responses to.
        took_ns: list that this connection appends the duration of each call to.
    """

    def __init__(
        self,
        address: tuple[str, int],
        path: str,
        bodies: Iterator[bytes],
        responses: ResponseCounts,
        took_ns: list[int],
    ) -> None:
        self.socket = socket.create_connection(address, timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_PREFACE)
        self.max_streams: int | None = None
        self._blocks = _request_blocks(path, f"{address[0]}:{address[1]}")
        self._bodies, self._responses, self._took_ns = bodies, responses, took_ns
        self._started: dict[int, int] = {}
        self._received: dict[int, bytes] = {}
        self._rest = b""
        self._next_stream = 1
        self._window = _FIRST_WINDOW

    def wait_for_settings(self) -> None:
        """Returns once `max_streams`, the number of concurrent calls that the server allows, is known."""
        while self.max_streams is None:
            self.receive()

    def start(self, calls: int) -> None:
        """Starts this number of calls."""
        now = perf_counter_ns()
        parts: list[bytes] = []
        for _ in range(calls):
            stream, self._next_stream = self._next_stream, self._next_stream + 2
            body = next(self._bodies)
            self._window -= len(body)
            parts += (
                frame(HEADERS, END_HEADERS, stream, next(self._blocks)),
                frame(DATA, END_STREAM, stream, body),
            )
            self._started[stream] = now
        if self._window < 0:
            raise BenchError("the flow-control window of the server is exhausted")
        self.socket.sendall(b"".join(parts))

    def receive(self) -> int:
        """Waits for data and returns the number of calls that ended."""
        got = self.socket.recv(_READ_BYTES)
        if not got:
            raise BenchError("the server closed the connection")
        data = self._rest + got
        at, ended, now = 0, 0, perf_counter_ns()
        while len(data) - at >= _FRAME_HEADER_BYTES:
            end = at + _FRAME_HEADER_BYTES + int.from_bytes(data[at : at + 3])
            if end > len(data):
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + _FRAME_HEADER_BYTES])
            payload = data[at + _FRAME_HEADER_BYTES : end]
            at = end
            if kind == DATA and not flags & END_STREAM:
                self._received[stream] = (self._received.get(stream, b"") + payload)[:BODY_BYTES]
            elif kind == HEADERS and flags & END_STREAM:
                self._took_ns.append(now - self._started.pop(stream))
                self._responses[self._received.pop(stream, b""), payload] += 1
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
            raise BenchError(f"the server aborted a call: frame type {kind}, {payload[:80]!r}")

    def _settings(self, payload: bytes) -> None:
        self.max_streams = _MAX_WINDOW
        for at in range(0, len(payload), _SETTING_BYTES):
            name, value = int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
            if name == HEADER_TABLE_SIZE and value < _TABLE_BYTES:
                raise BenchError(
                    f"the server's header table has {value} bytes; this client needs {_TABLE_BYTES}"
                )
            if name == MAX_CONCURRENT_STREAMS:
                self.max_streams = value


def _request_blocks(path: str, authority: str) -> Iterator[bytes]:
    """Yields the header block of the first call, then that of all others, which refers to the first."""
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
