"""The format of gRPC over HTTP/2, without I/O. Bytes that violate it raise CallError with gRPC's status.

Source: gRPC's PROTOCOL-HTTP2.md for prefix, timeout and message; its statuscodes.md for the status.
"""

import re
from struct import Struct
from urllib.parse import quote

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError, not_one_message

_PREFIX = Struct(">BI")
"""Precedes each message: one byte, 1 when it is compressed, and the length in four bytes."""

PREFIX_BYTES = _PREFIX.size

_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")

CONTENT_TYPE = (b"content-type", b"application/grpc")
"""The header of every response."""


def frame(message: bytes) -> bytes:
    """The message with its prefix, not compressed."""
    return _PREFIX.pack(0, len(message)) + message


def expected_bytes(data: bytes | bytearray, max_message_bytes: int) -> int:
    """The length of the first message of `data` with its prefix, or 5 while the prefix is incomplete.

    Raises CallError for a message that is compressed, or longer than `max_message_bytes`.
    """
    if len(data) < PREFIX_BYTES:
        return PREFIX_BYTES
    compressed, length = _PREFIX.unpack_from(data)
    if compressed:
        raise CallError(GrpcCode.UNIMPLEMENTED, "compressed messages are not supported: send identity")
    if length > max_message_bytes:
        raise CallError(
            GrpcCode.RESOURCE_EXHAUSTED,
            f"the message has {length} bytes; at most {max_message_bytes} are accepted",
        )
    total: int = PREFIX_BYTES + length
    return total


def only_message(body: bytes, max_message_bytes: int) -> bytes:
    """The message of a whole request body. Raises CallError unless there is exactly one."""
    expected = expected_bytes(body, max_message_bytes)
    if len(body) == expected:
        return body[PREFIX_BYTES:]
    if not body or len(body) > expected:
        raise not_one_message()
    raise truncated()


def truncated() -> CallError:
    """The error for a request that ends within a message."""
    return CallError(GrpcCode.INTERNAL, "the request ended before its message did")


def timeout_s(value: bytes) -> float:
    """The seconds in a grpc-timeout header. Raises CallError for a malformed one."""
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        raise CallError(GrpcCode.INTERNAL, "grpc-timeout must be 1 to 8 digits and one of H M S m u n")
    return int(match[1]) * _UNITS_S[match[2].decode()]


def status_fields(code: GrpcCode, message: str = "") -> list[tuple[bytes, bytes]]:
    """The trailers that end a call."""
    fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", quote(message, safe=_PRINTABLE).encode()))
    return fields
