"""Large messages without the fields that are not needed, compared with protobuf's own decoder."""

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest as Decoded
from ratelimitd.transport.call_error import CallError
from ratelimitd.transport.ext_authz import BODIES
from ratelimitd.transport.fast.framing import OnlyMessage, frame
from ratelimitd.transport.large_message import LargeMessage
from tests.transport.test_conformance import check_request


def varint(value: int) -> bytes:
    """Returns a varint as protobuf writes it."""
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def delimited(number: int, content: bytes) -> bytes:
    """Returns a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def messages(number: int, content: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Draws messages with `content` in the field `number`, among other fields and noise."""
    known = st.builds(delimited, st.just(number), content)
    return st.lists(known | FIELDS | st.binary(max_size=4), max_size=3).map(b"".join)


FIELDS = st.builds(delimited, st.sampled_from([1, 2, 3, 4, 5, 11, 12, 13, 99]), st.binary(max_size=8)) | (
    st.integers(0, 2**64 - 1).map(lambda size: varint(10 << 3) + varint(size))
)
HTTP = st.lists(FIELDS | st.binary(max_size=4), max_size=4).map(b"".join)
CHECKS = messages(1, messages(4, messages(2, HTTP)))


def read(message: bytes, cuts: Sequence[int]) -> bytes:
    """Returns what is kept of a message that arrives in parts, cut at these places."""
    large = LargeMessage(len(message), BODIES, len(message))
    at = 0
    for cut in (*sorted(cuts), len(message)):
        large.add(message[at:cut])
        at = max(at, cut)
    return large.message()


def decoded(message: bytes) -> Decoded | None:
    """Returns the fields of a CheckRequest that ratelimitd reads, or None if it is malformed."""
    try:
        request = Decoded.FromString(message)
    except DecodeError:
        return None
    request.DiscardUnknownFields()
    return request


@given(CHECKS | st.binary(max_size=30), st.lists(st.integers(0, 60), max_size=4))
@example(delimited(1, delimited(4, delimited(2, b"\x5a\x05abc"))) + b"ab", [])  # a body beyond its message
@example(delimited(1, delimited(4, b"\x12\x80")) + b"\x01", [])  # a length beyond its message
def test_every_message_decodes_to_the_same_without_what_is_dropped(message: bytes, cuts: list[int]) -> None:
    assert decoded(read(message, cuts)) == decoded(message)


@pytest.mark.parametrize("body", [{"body": "b" * 70_000}, {"raw_body": b"\xff" * 70_000}])
def test_only_the_body_is_dropped(body: dict[str, Any]) -> None:
    with_body = bytes(check_request(size=-1, **body))
    assert read(with_body, range(len(with_body))) == bytes(check_request(size=-1))


def test_a_message_is_refused_once_too_much_of_it_must_be_kept() -> None:
    body = frame(bytes(check_request("u" * 70_000)))
    message = OnlyMessage(BODIES, 66_000)
    with pytest.raises(CallError) as error:
        message.add(body[:200])
    assert error.value.code is GrpcCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("cut", "more", "code"), [(-1, b"", GrpcCode.INTERNAL), (None, b"x", GrpcCode.INVALID_ARGUMENT)]
)
def test_a_large_message_must_be_whole_and_the_only_one(cut: int | None, more: bytes, code: GrpcCode) -> None:
    def receive(body: bytes) -> bytes:
        message = OnlyMessage(BODIES, 66_000)
        message.add(body)
        return message.message()

    whole = frame(bytes(check_request(body="b" * 70_000)))
    assert receive(whole) == bytes(check_request())
    with pytest.raises(CallError) as error:
        receive(whole[:cut] + more)
    assert error.value.code is code
