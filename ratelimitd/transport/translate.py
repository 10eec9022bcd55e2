"""CheckRequest bytes -> Request, Answer -> CheckResponse bytes. Every transport uses these two.

Field rules were read off a running Envoy: `append_action` is always set, since its default differs between
the kinds of answer and Envoy drops a denied header with the older `append`; a deny always carries a non-zero
code, since only the code decides.
"""

from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.message import DecodeError, Message
from google.protobuf.struct_pb2 import Struct

from ratelimitd.core.model import Answer, Reply, Request
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import (
    CheckRequest,
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)

SERVICE = "envoy.service.auth.v3.Authorization"
"""The gRPC service whose method Check this is."""

# google.rpc.Code by the HTTP status of the refusal
_CODES = {403: 7, 429: 8, 503: 14}


def decode(payload: bytes) -> Request:
    """The HTTP request in a serialized CheckRequest. Raises MalformedRequestError."""
    try:
        attributes = CheckRequest.FromString(payload).attributes
    except DecodeError as error:
        raise MalformedRequestError("the message is no envoy.service.auth.v3.CheckRequest") from error
    request = attributes.request
    if not request.HasField("http"):
        raise MalformedRequestError("attributes.request.http is missing: only HTTP requests can be limited")
    http = request.http
    return Request(
        http.method,
        http.path.partition("?")[0],
        http.host,
        _raw_headers(http.header_map) if http.HasField("header_map") else http.headers,
        attributes.source.address.socket_address.address,
        attributes.context_extensions,
    )


def _raw_headers(header_map: HeaderMap) -> Mapping[str, str]:
    """Headers as sent with encode_raw_headers, in the one form that the core knows."""
    headers: dict[str, str] = {}
    for header in header_map.headers[:]:  # a list: going through the field itself takes longer than all else
        key, value = header.key, str(header.raw_value, "utf-8", "surrogateescape") or header.value
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


def encode(answer: Answer) -> bytes:
    """The serialized CheckResponse."""
    return _encoded_denial(answer) if answer.reply is Reply.DENIED else _encoded(answer)


_remembered = lru_cache(maxsize=8192)


@_remembered
def _encoded_denial(answer: Answer) -> bytes:
    # Who is denied again and again gets the same answer object.
    return _encoded(answer)


def _encoded(answer: Answer) -> bytes:
    """The response, put together from parts. Those that an earlier answer had are serialized once.

    Building all of the message anew took four times as long.
    """
    kind = answer.reply.value
    inner = [_refusal(kind, answer.http_status, answer.body)] if answer.reply is not Reply.OK else []
    tag = _HEADER_TAGS[kind]
    for key, value in answer.headers:
        named = _name(key)
        text = value.encode()
        inner.append(_field(tag, _field(_OPTION_TAG, named + _field(_VALUE_TAG, text)) + _OVERWRITE))
    metadata = [_metadata(key, value) for key, value in answer.metadata.items()]
    return b"".join(
        (
            _status(0 if answer.reply is Reply.OK else _CODES[answer.http_status]),
            _field(_TAGS[kind], b"".join(inner)),
            _field(_TAGS["dynamic_metadata"], b"".join(metadata)),
        )
    )


def _tags(message: type[Message]) -> dict[str, bytes]:
    """What begins each field that holds bytes: https://protobuf.dev/programming-guides/encoding/#structure."""
    return {field.name: bytes([field.number << 3 | 2]) for field in message.DESCRIPTOR.fields}


_TAGS = _tags(CheckResponse)
_HEADER_TAGS = {
    Reply.OK.value: _tags(OkHttpResponse)["response_headers_to_add"],
    Reply.DENIED.value: _tags(DeniedHttpResponse)["headers"],
    Reply.ERROR.value: _tags(DeniedHttpResponse)["headers"],
}
_OPTION_TAG = _tags(HeaderValueOption)["header"]
_VALUE_TAG = _tags(HeaderValue)["value"]
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


@_remembered
def _status(code: int) -> bytes:
    response = CheckResponse()
    response.status.code = code
    return response.SerializeToString()


@_remembered
def _refusal(kind: str, http_status: int, body: str) -> bytes:
    """The part of a denied_response or error_response that holds no headers."""
    refusal = getattr(CheckResponse(), kind)
    refusal.status.code = http_status
    refusal.body = body
    serialized: bytes = refusal.SerializeToString()
    return serialized


@_remembered
def _metadata(key: str, value: str | int) -> bytes:
    fields = Struct()
    fields[key] = value
    serialized: bytes = fields.SerializeToString()
    return serialized
