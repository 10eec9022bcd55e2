"""Messages that may end a connection: mutated header fields, header blocks and frames, and floods.

Each function returns the frames of one message. The same random numbers give the same bytes.
"""

import struct
from random import Random

from fuzz import wire
from fuzz.calls import FIELDS, VALID_BLOCK, Message, call, check_bytes, compressed, valid
from fuzz.mutation import mutated
from fuzz.wire import Fields

_TIMEOUTS = (b"0n", b"99999999H", b"-1S", b"1m", b"x", b"")
_ENCODINGS = (b"gzip", b"identity", b"\xff", b"br")
_BAD_BLOCKS = (
    b"\x3f\xff\xff\xff\xff\x0f",  # a size update that is too large
    b"\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer that is too large
    b"\xbf",  # an index that does not exist
    b"\x00\x84\xff\xff\xff\xff\x00",  # the Huffman code EOS in a name
    b"\x00\x01a\x81\x00",  # Huffman padding that is not of ones
)


def _changed_fields(random: Random) -> Fields:
    result = list(FIELDS)
    for _ in range(random.randint(1, 2)):
        at = random.randrange(len(result))
        name, value = result[at]
        match random.randrange(7):
            case 0:
                result[at] = (mutated(name, random), value)
            case 1:
                result[at] = (name, mutated(value, random))
            case 2:
                del result[at]
            case 3:
                result.insert(random.randrange(len(result) + 1), (name, value))
            case 4:
                result.append((b"grpc-timeout", random.choice(_TIMEOUTS)))
            case 5:
                result.append((b"grpc-encoding", random.choice(_ENCODINGS)))
            case _:
                name = b"x-" + random.randbytes(3).hex().encode()
                result.append((name, random.randbytes(random.choice((3, 900)))))
    return result


def headers(random: Random, stream: int) -> bytes:
    """Returns a call with mutated header fields."""
    block = wire.literal_block(_changed_fields(random))
    return call(random, stream, block, wire.grpc_message(check_bytes(random)))


def header_block(random: Random, stream: int) -> bytes:
    """Returns a call with a mutated header block."""
    block = random.choice(
        (
            mutated(VALID_BLOCK, random),
            mutated(wire.compressed_block(FIELDS), random),
            random.choice(_BAD_BLOCKS) + VALID_BLOCK,
        )
    )
    return call(random, stream, block, wire.grpc_message(check_bytes(random)))


def continuation(random: Random, stream: int) -> bytes:
    """Returns a header block that is cut by another frame, or that never ends."""
    head = wire.frame(wire.HEADERS, 0, stream, VALID_BLOCK)
    between = random.choice((wire.frame(wire.PING, 0, 0, bytes(8)), valid(random, stream + 2)))
    return head + random.choice((between, wire.frame(wire.CONTINUATION, 0, stream) * 100))


def frames(random: Random, stream: int) -> bytes:
    """Returns a call whose frames are mutated, or one frame that is random."""
    some = random.choice((valid, compressed))(random, stream)
    kind, flags, number = random.randrange(10), random.randrange(256), random.randrange(2**32)
    return random.choice((mutated(some, random), wire.frame(kind, flags, number, random.randbytes(30))))


def settings(random: Random, stream: int) -> bytes:
    """Returns settings and window updates that are not allowed, or a GOAWAY."""
    value = struct.pack("!HI", random.randint(1, 6), random.choice((0, 2**31, 2**32 - 1)))
    increment = struct.pack("!I", random.choice((0, 2**31 - 1)))
    where = random.choice((0, stream))
    goaway = struct.pack("!II", random.randrange(2**31), random.randrange(16)) + b"x" * 50
    return random.choice(
        (
            wire.frame(wire.SETTINGS, 0, where, value + random.randbytes(random.randrange(3))),
            wire.frame(wire.WINDOW_UPDATE, 0, where, increment) * 2,
            wire.frame(wire.GOAWAY, 0, 0, goaway),
        )
    )


def flood(random: Random, stream: int) -> bytes:
    """Returns many frames, for which servers may end the connection."""
    head = wire.frame(wire.HEADERS, wire.END_HEADERS, stream, VALID_BLOCK)
    control = random.choice(
        (
            wire.frame(wire.PING, 0, 0, random.randbytes(8)),
            wire.frame(wire.SETTINGS, 0, 0),
            wire.frame(wire.PRIORITY, 0, stream, bytes(5)),
            wire.frame(wire.WINDOW_UPDATE, 0, 0, struct.pack("!I", 1)),
        )
    )
    resets = b"".join(
        wire.frame(wire.HEADERS, wire.END_HEADERS, number, VALID_BLOCK)
        + wire.frame(wire.RST_STREAM, 0, number, struct.pack("!I", 8))
        for number in range(stream, stream + 40, 2)
    )
    empty = head + wire.frame(wire.DATA, 0, stream) * 300
    unread = head + wire.frame(wire.DATA, 0, stream, random.randbytes(16384)) * 8
    return random.choice((control * 300, resets, empty, unread))


ENDINGS: tuple[Message, ...] = (headers, headers, header_block, continuation, frames, settings, flood)
"""The messages in the shares in which they are sent."""
