"""A large protobuf message without the fields that are not needed. They are dropped while their bytes arrive.

Bytes that this module does not understand are kept, with the rest of the message that they are in, so the
decoder judges them. Source: https://protobuf.dev/programming-guides/encoding.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from ratelimitd.transport.call_error import too_large

FieldPath = tuple[int, ...]
"""The numbers of nested fields, from the outermost one."""

LARGE_BYTES = 65_536
"""Shorter messages are kept whole: the search for fields to drop takes about 2 us per field."""

_HEAD = re.compile(rb"([\x80-\xff]{0,4}[\x00-\x7f])([\x80-\xff]{0,9}[\x00-\x7f])")
"""The key of a field, and the varint after it: the value or the length."""

_HEAD_MAX_BYTES = 15
_LENGTH_MAX_BYTES = 5
_VARINT, _LENGTH_DELIMITED = 0, 2


@dataclass(slots=True)
class _Level:
    """A message that is being read: its path, its key in the message around it, and its bytes."""

    path: FieldPath
    key: bytes
    left: int
    kept: bytearray = field(default_factory=bytearray)


def large_bytes(max_message_bytes: int) -> int:
    """The length above which a message is large."""
    return min(LARGE_BYTES, max_message_bytes)


def without(message: bytes, unneeded: Collection[FieldPath], max_bytes: int) -> bytes:
    """The message without the fields at these paths. Raises CallError if more than `max_bytes` are left."""
    large = LargeMessage(len(message), unneeded, max_bytes)
    large.add(message)
    return large.message()


class LargeMessage:
    """A message whose bytes arrive in parts.

    Args:
        length: of the whole message, in bytes.
        unneeded: the paths of the fields to drop, which are length-delimited.
        max_bytes: how many bytes may be kept.
    """

    def __init__(self, length: int, unneeded: Collection[FieldPath], max_bytes: int) -> None:
        self._unneeded = frozenset(unneeded)
        self._entered = {path[:depth] for path in unneeded for depth in range(1, len(path))}
        self._max_bytes = self._budget = max_bytes
        self._levels = [_Level((), b"", length)]
        self._rest = b""  # an incomplete head of a field
        self._run, self._keep = 0, False  # bytes that are kept or dropped without being read

    def add(self, data: bytes) -> None:
        """Reads the next bytes of the message. Raises CallError once too many must be kept."""
        data = self._rest + data
        at = 0
        while True:
            at = self._continue_run(data, at)
            level = self._levels[-1]
            if self._run or not level.left:
                break
            used = self._begin(level, data[at : at + min(_HEAD_MAX_BYTES, level.left)])
            if used is None:
                break
            at += used
        self._rest = data[at:]

    def message(self) -> bytes:
        """The bytes that were kept, once the whole message has been added."""
        return bytes(self._levels[0].kept)

    def _continue_run(self, data: bytes, at: int) -> int:
        """Keeps or drops bytes from `at` on, and returns where the run ends in `data`."""
        end = at + min(self._run, len(data) - at)
        level = self._levels[-1]
        if self._keep:
            level.kept += memoryview(data)[at:end]
        self._run -= end - at
        level.left -= end - at
        while not level.left and len(self._levels) > 1:
            self._levels.pop()
            outer = self._levels[-1]
            outer.kept += level.key + _varint(len(level.kept)) + level.kept
            level = outer
        return end

    def _begin(self, level: _Level, head: bytes) -> int | None:
        """Begins the field of `level` that starts with `head`.

        Returns how many bytes of `head` have been used, or None if it is incomplete.
        """
        match = _HEAD.match(head)
        if match is None and len(head) < min(_HEAD_MAX_BYTES, level.left):
            return None
        size = None if match is None else _size(match)
        if match is None or size is None or size > level.left:
            return self._keep_next(level.left)
        number, wire_type = divmod(_value(match[1]), 8)
        path = (*level.path, number)
        used = match.end()
        if wire_type == _LENGTH_DELIMITED and path in self._unneeded:
            self._spend(used)
            level.left -= used
            self._run, self._keep = size - used, False
            return used
        if wire_type == _LENGTH_DELIMITED and path in self._entered:
            self._spend(used)
            level.left -= size
            self._levels.append(_Level(path, match[1], size - used))
            return used
        return self._keep_next(size)

    def _keep_next(self, size: int) -> int:
        self._spend(size)
        self._run, self._keep = size, True
        return 0

    def _spend(self, size: int) -> None:
        self._budget -= size
        if self._budget < 0:
            raise too_large(self._max_bytes)


def _size(head: "re.Match[bytes]") -> int | None:
    """The bytes of a field with its head; None for a wire type or a length that is not understood."""
    wire_type = _value(head[1]) % 8
    if wire_type == _VARINT:
        return head.end()
    if wire_type == _LENGTH_DELIMITED and len(head[2]) <= _LENGTH_MAX_BYTES:
        return head.end() + _value(head[2])
    return None


def _value(varint: bytes) -> int:
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(varint))


def _varint(value: int) -> bytes:
    groups = bytearray()
    while (rest := value >> 7) > 0:
        groups.append(value & 0x7F | 0x80)
        value = rest
    return bytes((*groups, value))
