"""The format of gRPC over HTTP/2, without I/O. Bytes that violate it raise CallError with gRPC's status.

Source: gRPC's PROTOCOL-HTTP2.md for prefix, timeout and message; its statuscodes.md for the status.
"""

import re
from collections.abc import Collection
from struct import Struct
from urllib.parse import quote

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError, not_one_message
from ratelimitd.transport.large_message import FieldPath, LargeMessage, large_bytes

_PREFIX = Struct(">BI")
"""Precedes each message: one byte, 1 when it is compressed, and the length in four bytes."""

PREFIX_BYTES = _PREFIX.size
_MAX_LENGTH = 2**32 - 1

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


class OnlyMessage:
    """The only message of a request body that arrives in parts.

    Args:
        unneeded: paths of the fields that are dropped if the message is large.
        max_message_bytes: how long the message may be without them.
    """

    def __init__(self, unneeded: Collection[FieldPath], max_message_bytes: int) -> None:
        self._unneeded = unneeded
        self._max_message_bytes = max_message_bytes
        self._body = bytearray()
        self._large: LargeMessage | None = None
        self._missing = 0  # bytes of the large message

    def add(self, part: bytes) -> None:
        """Takes the next bytes of the body. Raises CallError as soon as the message is refused."""
        if self._large is None:
            self._body += part
            expected = expected_bytes(self._body, _MAX_LENGTH)
            if expected - PREFIX_BYTES <= large_bytes(self._max_message_bytes):
                return
            self._missing = expected - PREFIX_BYTES
            self._large = LargeMessage(self._missing, self._unneeded, self._max_message_bytes)
            part = bytes(self._body[PREFIX_BYTES:])
        self._missing -= len(part)
        if self._missing < 0:
            raise not_one_message()
        self._large.add(part)

    def message(self) -> bytes:
        """The message, at the end of the body. Raises CallError unless there is exactly one."""
        if self._large is None:
            return only_message(bytes(self._body), self._max_message_bytes)
        if self._missing:
            raise truncated()
        return self._large.message()


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
