"""Messages that a connection survives: calls with mutated bodies, checks over HTTP, and control frames.

Each function returns the frames of one message. The same random numbers give the same bytes.
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from random import Random

from fuzz import wire
from fuzz.mutation import mutated
from fuzz.wire import Fields
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from ratelimitd.transport.ext_authz import SERVICE

CHECK = f"/{SERVICE}/Check".encode()
USERS = 500
"""The messages name this many users, apart from the names that a mutation makes up."""

FIELDS: Fields = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", CHECK),
    (b":authority", b"ratelimitd"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
]
"""The header fields of a valid call."""

VALID_BLOCK = wire.literal_block(FIELDS)
_COMPRESSED = 100
IN_QUERY = bytes(character for character in range(0x21, 0x7F) if character != ord("#"))
"""Characters with which Envoy accepts a path."""
IN_HEADERS = bytes((*range(0x21, 0x7F), *range(0x80, 0x100)))
"""Bytes with which Envoy accepts a header."""
_CUT_SHARE = 0.2
"""The share of messages that are sent in two DATA frames."""

Message = Callable[[Random, int], bytes]
"""Makes the frames of a message, with the number of a stream that is not in use."""


def check_bytes(random: Random) -> bytes:
    """Returns a valid request of one of the users."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.path, http.host = "GET", f"/api/{random.randrange(50)}?q=1", "example.com"
    http.headers["x-user-id"] = f"fuzz-{random.randrange(USERS)}"
    request.attributes.source.address.socket_address.address = "192.0.2.1"
    request.attributes.context_extensions["api"] = "/api/*"
    return request.SerializeToString()


def call(random: Random, stream: int, block: bytes, message: bytes) -> bytes:
    """Returns a call, whose message may be cut into two DATA frames."""
    cut = len(message)
    if cut > 1 and random.random() < _CUT_SHARE:
        cut = random.randrange(1, cut)
    parts = [wire.frame(wire.HEADERS, wire.END_HEADERS, stream, block)]
    if cut < len(message):
        parts.append(wire.frame(wire.DATA, 0, stream, message[:cut]))
        message = message[cut:]
    parts.append(wire.frame(wire.DATA, wire.END_STREAM, stream, message))
    return b"".join(parts)


def valid(random: Random, stream: int) -> bytes:
    """Returns a valid call."""
    return call(random, stream, VALID_BLOCK, wire.grpc_message(check_bytes(random)))


def protobuf(random: Random, stream: int) -> bytes:
    """Returns a call with a mutated CheckRequest."""
    return call(random, stream, VALID_BLOCK, wire.grpc_message(mutated(check_bytes(random), random)))


def framing(random: Random, stream: int) -> bytes:
    """Returns a call with mutated gRPC framing."""
    body = check_bytes(random)
    length = random.choice((len(body), 0, 1, len(body) + 1, 2**31, 2**32 - 1))
    message = struct.pack("!BI", random.choice((0, 0, 1, 2, 255)), length) + body
    message = random.choice((message, message * 2, message[:3], message + b"\x00", b""))
    return call(random, stream, VALID_BLOCK, message)


@lru_cache
def _compressed_block(number: int) -> bytes:
    """Returns a block with a header field of its own. It is kept, because the encoder takes long."""
    value = bytes(Random(number).choices(range(0x21, 0x7F), k=20))  # noqa: S311 - not a secret
    return wire.compressed_block([*FIELDS, (f"x-{number}".encode(), value)])


def compressed(random: Random, stream: int) -> bytes:
    """Returns a call whose header block uses Huffman codes and the dynamic table, in three frames."""
    block = _compressed_block(random.randrange(_COMPRESSED))
    first, second = sorted(random.sample(range(1, len(block)), 2))
    head = wire.frame(wire.HEADERS, 0, stream, block[:first])
    head += wire.frame(wire.CONTINUATION, 0, stream, block[first:second])
    head += wire.frame(wire.CONTINUATION, wire.END_HEADERS, stream, block[second:])
    return head + wire.frame(wire.DATA, wire.END_STREAM, stream, wire.grpc_message(check_bytes(random)))


def cancelled(random: Random, stream: int) -> bytes:
    """Returns a call that its caller cancels at once, or the head of one."""
    head = wire.frame(wire.HEADERS, wire.END_HEADERS, stream, VALID_BLOCK)
    reset = wire.frame(wire.RST_STREAM, 0, stream, struct.pack("!I", random.randrange(16)))
    return random.choice((valid(random, stream), head)) + reset


def control(random: Random, stream: int) -> bytes:
    """Returns control frames that are valid, and up to twenty of a kind."""
    one = random.choice(
        (
            wire.frame(wire.SETTINGS, 0, 0, struct.pack("!HI", 0x3, random.randrange(1000))),
            wire.frame(wire.SETTINGS, 0, 0, struct.pack("!HI", 0xABCD, random.randrange(2**32))),
            wire.frame(wire.PRIORITY, 0, stream, struct.pack("!IB", 0, random.randrange(256))),
            wire.frame(random.randint(0x20, 0xFF), random.randrange(256), 0, random.randbytes(20)),
        )
    )
    return one * random.randint(1, 20)


def http_check(random: Random, stream: int) -> bytes:
    """Returns a check over HTTP whose query and headers are often wrong. `grpcio` refuses it."""
    query = random.choice((b"", b"api=/api/*", b"denied_status=403&metadata=true", text(random, IN_QUERY)))
    fields = [
        (b":method", random.choice((b"GET", b"HEAD", b"POST", b"OPTIONS"))),
        (b":scheme", b"http"),
        (b":path", b"/check?" + query),
        (b":authority", b"ratelimitd"),
        (b"x-user-id", f"fuzz-{random.randrange(USERS)}".encode()),
        (b"x-forwarded-uri", random.choice((b"/api/1?q=1", b"http://a/b", text(random, IN_HEADERS)))),
        (b"x-forwarded-method", random.choice((b"GET", text(random, IN_HEADERS)))),
        (b"x-forwarded-for", random.choice((b"2001:db8::1, 192.0.2.1", text(random, IN_HEADERS)))),
    ]
    some = fields[:4] + random.choices(fields[4:], k=random.randint(1, 6))
    return wire.frame(wire.HEADERS, wire.END_STREAM | wire.END_HEADERS, stream, wire.literal_block(some))


def text(random: Random, characters: bytes) -> bytes:
    """Returns 1, 20 or 5000 of these characters."""
    return bytes(random.choices(characters, k=random.choice((1, 20, 5000))))


CALLS: tuple[Message, ...] = (
    *(protobuf, protobuf, protobuf),
    *(framing, compressed, cancelled, control, http_check),
)
"""The messages in the shares in which they are sent."""
