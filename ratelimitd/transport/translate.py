"""CheckRequest bytes -> Request, Answer -> CheckResponse bytes. Every transport uses these two.

Field rules were read off a running Envoy: `append_action` is always set, since its default differs between
the kinds of answer and Envoy drops a denied header with the older `append`; a deny always carries a non-zero
code, since only the code decides.
"""

from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from ratelimitd.core.model import Answer, Reply, Request
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

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
        method=http.method,
        path=http.path.partition("?")[0],
        host=http.host,
        headers=_raw_headers(http.header_map) if http.HasField("header_map") else http.headers,
        peer_address=attributes.source.address.socket_address.address,
        context=attributes.context_extensions,
    )


def _raw_headers(header_map: HeaderMap) -> Mapping[str, str]:
    """Headers as sent with encode_raw_headers, in the one form that the core knows."""
    headers: dict[str, str] = {}
    for header in header_map.headers:
        value = header.raw_value.decode("utf-8", "surrogateescape") or header.value
        earlier = headers.get(header.key)
        headers[header.key] = value if earlier is None else f"{earlier},{value}"
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
    """The response, put together from parts that are serialized once and remembered.

    Most parts are those of an earlier answer, and building all of the message anew took four times as long.
    """
    kind = answer.reply.value
    inner = [_refusal(kind, answer.http_status, answer.body)] if answer.reply is not Reply.OK else []
    inner += [_header(kind, key, value) for key, value in answer.headers]
    metadata = [_metadata(key, value) for key, value in answer.metadata.items()]
    return b"".join(
        (
            _status(0 if answer.reply is Reply.OK else _CODES[answer.http_status]),
            _nested(kind, b"".join(inner)),
            _nested("dynamic_metadata", b"".join(metadata)),
        )
    )


_TAGS = {field.name: bytes([field.number << 3 | 2]) for field in CheckResponse.DESCRIPTOR.fields}
"""What begins a field that holds a message: https://protobuf.dev/programming-guides/encoding/#structure."""


def _nested(field: str, message: bytes) -> bytes:
    """A field of CheckResponse, from its serialized message: tag, length as a varint, content."""
    length = len(message)
    varint = b""
    while length >> 7:
        varint += bytes([length & 0x7F | 0x80])
        length >>= 7
    return _TAGS[field] + varint + bytes([length]) + message


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
def _header(kind: str, key: str, value: str) -> bytes:
    """One header of an answer of this kind: an OK adds it to the upstream's response."""
    reply = getattr(CheckResponse(), kind)
    headers = reply.response_headers_to_add if kind == Reply.OK.value else reply.headers
    headers.add(
        header=HeaderValue(key=key, value=value),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    serialized: bytes = reply.SerializeToString()
    return serialized


@_remembered
def _metadata(key: str, value: str | int) -> bytes:
    fields = Struct()
    fields[key] = value
    serialized: bytes = fields.SerializeToString()
    return serialized
