"""CheckRequest bytes -> Request, Answer -> CheckResponse bytes. Every transport uses these two.

Field rules were read off a running Envoy: `append_action` is always set, since its default differs between
the kinds of answer and Envoy drops a denied header with the older `append`; a deny always carries a non-zero
code, since only the code decides.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import pack
from typing import NamedTuple

from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct, Value

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.model import Answer, Reply, Request, Verdict
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)

SERVICE = "envoy.service.auth.v3.Authorization"
"""The gRPC service whose method Check this is."""

# by the HTTP status of the refusal
_CODES = {403: GrpcCode.PERMISSION_DENIED, 429: GrpcCode.RESOURCE_EXHAUSTED, 503: GrpcCode.UNAVAILABLE}


def decode(payload: bytes, traceparent: str = "") -> Request:
    """The HTTP request in a serialized CheckRequest. Raises MalformedRequestError."""
    try:
        attributes = CheckRequest.FromString(payload).attributes
    except DecodeError as error:
        raise MalformedRequestError("the message is no envoy.service.auth.v3.CheckRequest") from error
    request = attributes.request
    if not request.HasField("http"):
        raise MalformedRequestError("attributes.request.http is missing: only HTTP requests can be limited")
    http = request.http
    # A copy as a list: going through the field itself takes longer than all else.
    raw = http.header_map.headers[:]
    return Request(
        http.method,
        http.path.partition("?")[0],
        http.host,
        _raw_headers(raw) if raw else http.headers,
        attributes.source.address.socket_address.address,
        attributes.context_extensions,
        traceparent,
    )


def _raw_headers(raw: Sequence[HeaderValue]) -> Mapping[str, str]:
    """Headers as sent with encode_raw_headers, in the one form that the core knows."""
    headers: dict[str, str] = {}
    for header in raw:
        key, value = header.key, str(header.raw_value, "utf-8", "surrogateescape") or header.value
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


def encode(answer: Answer) -> bytes:
    """The serialized CheckResponse."""
    return _encoded_denial(answer) if answer.verdict.reply is Reply.DENIED else _encoded(answer)


_remembered = lru_cache(maxsize=8192)


@_remembered
def _encoded_denial(answer: Answer) -> bytes:
    # Who is denied again and again gets the same answer.
    return _encoded(answer)


def _encoded(answer: Answer) -> bytes:
    """The response, put together from what its verdict has and what is its own.

    Building all of the message anew took seven times as long.
    """
    verdict, rate_limit, remaining = answer
    status, tag, content, header_tag, metadata = _parts(verdict)
    if rate_limit:
        content += _header(header_tag, "ratelimit", rate_limit)
    if remaining is not None:
        metadata += _REMAINING + pack("<d", remaining)
    return status + _field(tag, content) + _field(_METADATA_TAG, metadata)


class _Parts(NamedTuple):
    """What all answers with a verdict have.

    Args:
        status: the field of that name.
        tag: what begins the field that holds the kind of answer.
        content: what that holds.
        header_tag: what begins each header in it.
        metadata: what the metadata hold.
    """

    status: bytes
    tag: bytes
    content: bytes
    header_tag: bytes
    metadata: bytes


@_remembered
def _parts(verdict: Verdict) -> _Parts:
    response = CheckResponse()
    response.status.code = 0 if verdict.reply is Reply.OK else _CODES[verdict.http_status]
    status, tag = response.SerializeToString(), _tag(CheckResponse, verdict.reply.value)
    if verdict.reply is Reply.OK:
        content, header_tag = b"", _tag(OkHttpResponse, "response_headers_to_add")
    else:
        refusal = DeniedHttpResponse(body=verdict.body)
        refusal.status.code = verdict.http_status
        content, header_tag = refusal.SerializeToString(), _tag(DeniedHttpResponse, "headers")
    for key, value in verdict.headers:
        content += _header(header_tag, key, value)
    metadata = Struct()
    metadata.update(dict(verdict.metadata))
    return _Parts(status, tag, content, header_tag, metadata.SerializeToString())


def _header(tag: bytes, key: str, value: str) -> bytes:
    header = _name(key) + _field(_VALUE_TAG, value.encode())
    return _field(tag, _field(_HEADER_TAG, header) + _OVERWRITE)


def _tag(message: type[Message], field: str) -> bytes:
    """What begins a field that holds bytes: https://protobuf.dev/programming-guides/encoding/#structure."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_METADATA_TAG = _tag(CheckResponse, "dynamic_metadata")
_HEADER_TAG = _tag(HeaderValueOption, "header")
_VALUE_TAG = _tag(HeaderValue, "value")
_REMAINING = Struct(fields={"remaining": Value(number_value=0)}).SerializeToString()[: -len(pack("<d", 0))]
"""A Struct with that field, but for its number, which stands last."""

_OVERWRITE = HeaderValueOption(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD).SerializeToString()


def _field(tag: bytes, content: bytes) -> bytes:
    """A field from its serialized content."""
    return tag + _varint(len(content)) + content


@_remembered
def _varint(number: int) -> bytes:
    found = b""
    while number >> 7:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


@_remembered
def _name(key: str) -> bytes:
    """A HeaderValue that has no value yet."""
    return HeaderValue(key=key).SerializeToString()
