"""HTTP/2 frames (RFC 9113) and header blocks (RFC 7541), written without any check."""

import struct
from collections.abc import Iterable

from hpack import Encoder

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct("!BHBBI")
_HEAD_BYTES = 9
_PREFIX = 0x7F  # the largest value of a prefix of seven bits: the length follows
_EMPTY_TABLE = b"\x20\x3f\xe1\x1f"
"""Two size updates, to 0 and to 4096 bytes, which empty the receiver's dynamic table."""

Fields = list[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame."""
    return _HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def frames_in(data: bytearray) -> Iterable[tuple[int, int, int, bytes]]:
    """Yields kind, flags, stream and payload of each whole frame, and removes it from `data`."""
    while len(data) >= _HEAD_BYTES:
        high, low, kind, flags, stream = _HEAD.unpack_from(data)
        end = _HEAD_BYTES + (high << 16 | low)
        if len(data) < end:
            return
        payload = bytes(data[_HEAD_BYTES:end])
        del data[:end]
        yield kind, flags, stream, payload


def literal_block(fields: Fields) -> bytes:
    """Returns a header block of literals, which leaves the dynamic tables of both sides as they are."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def compressed_block(fields: Fields) -> bytes:
    """Returns a header block with Huffman codes and a dynamic table, which is empty at the beginning."""
    encoder = Encoder()
    return _EMPTY_TABLE + encoder.encode(fields) + encoder.encode(fields[-1:])


def _text(value: bytes) -> bytes:
    length = len(value)
    if length < _PREFIX:
        return bytes([length]) + value
    length, head = length - _PREFIX, bytearray([_PREFIX])
    while length > 0x7F:  # noqa: PLR2004 - seven bits of a byte
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + value


def grpc_message(body: bytes) -> bytes:
    """Returns an uncompressed gRPC message."""
    return struct.pack("!BI", 0, len(body)) + body
