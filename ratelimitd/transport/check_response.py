"""Write a CheckResponse from a rendered response; building the message anew takes seven times as long.

The bytes of a template are made once, with protobuf, and completed once for each length of the value of
`ratelimit`. A response adds this value and the number `remaining`:

    status: 8 | denied_response: len [status, body, headers ..., + header `ratelimit`] | dynamic_metadata: len
    [fields ..., + field `remaining`]

Source: https://protobuf.dev/programming-guides/encoding/#structure. A field that holds bytes is a tag, a
length and the content; fields of one message may be written one after the other.
"""

from functools import lru_cache
from struct import pack
from typing import NamedTuple

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.response import Response, ResponseKind, ResponseTemplate
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import (
    CheckResponse,
    DeniedHttpResponse,
    OkHttpResponse,
)

_CODES = {
    403: GrpcCode.PERMISSION_DENIED,
    429: GrpcCode.RESOURCE_EXHAUSTED,
    503: GrpcCode.UNAVAILABLE,
}
"""The google.rpc.Code of a refusal, by its HTTP status."""


class _EncodedTemplate(NamedTuple):
    """The bytes that all responses with a template share.

    Args:
        status: the field `status`, complete.
        tag: the tag of the field of the kind of reply.
        content: the content of that field, without `ratelimit`.
        header_tag: the tag of each header in it.
        append_action: what Envoy does with an equal field of the backend, at the end of each header.
        metadata: the content of `dynamic_metadata`, without `remaining`.
    """

    status: bytes
    tag: bytes
    content: bytes
    header_tag: bytes
    append_action: bytes
    metadata: bytes


class ResponseEncoder:
    """Encodes responses, and keeps the bytes of recent templates.

    Args:
        max_entries: templates that are kept, and completed ones; the least recently used are dropped first.
    """

    def __init__(self, max_entries: int = 8192) -> None:
        self._template = lru_cache(max_entries)(_encode_template)
        self._around = lru_cache(max_entries)(self._encode_around)

    def encode(self, response: Response) -> bytes:
        """The serialized CheckResponse."""
        template, rate_limit, remaining = response
        value = rate_limit.encode()
        number = b"" if remaining is None else pack("<d", remaining)
        before, after = self._around(template, len(value), len(number))
        return b"".join((before, value, after, number))

    def _encode_around(
        self, template: ResponseTemplate, value_size: int, number_size: int
    ) -> tuple[bytes, bytes]:
        """The bytes before the value of `ratelimit`, and those between it and the number `remaining`."""
        status, tag, content, header_tag, append_action, metadata = self._template(template)
        value_end = b""
        if value_size:
            header = _RATE_LIMIT + _varint(value_size)
            option = _HEADER_TAG + _varint(len(header) + value_size) + header
            value_end = append_action
            content += header_tag + _varint(len(option) + value_size + len(value_end)) + option
        if number_size:
            metadata += _REMAINING
        before = status + tag + _varint(len(content) + value_size + len(value_end)) + content
        return before, value_end + _METADATA_TAG + _varint(len(metadata) + number_size) + metadata


def _encode_template(template: ResponseTemplate) -> _EncodedTemplate:
    response = CheckResponse()
    ok = template.kind is ResponseKind.OK
    response.status.code = GrpcCode.OK if ok else _CODES[template.http_status]
    reply = OkHttpResponse() if ok else DeniedHttpResponse(body=template.body)
    if isinstance(reply, DeniedHttpResponse):
        reply.status.code = template.http_status
    headers = reply.response_headers_to_add if isinstance(reply, OkHttpResponse) else reply.headers
    # Both RateLimit fields are lists, so ours are appended to the backend's. A refusal has only ours: Envoy
    # drops a header of a refusal that is to be appended.
    action = HeaderValueOption(
        append_action="APPEND_IF_EXISTS_OR_ADD" if ok else "OVERWRITE_IF_EXISTS_OR_ADD"
    )
    for key, value in template.headers:
        headers.add(header=HeaderValue(key=key, value=value), append_action=action.append_action)
    metadata = Struct()
    metadata.update(dict(template.metadata))
    return _EncodedTemplate(
        response.SerializeToString(),
        _tag(CheckResponse, template.kind.value),
        reply.SerializeToString(),
        _tag(type(reply), "response_headers_to_add" if ok else "headers"),
        action.SerializeToString(),
        metadata.SerializeToString(),
    )


def _tag(message: type[Message], field: str) -> bytes:
    """The tag of a field that holds bytes: its number, and 2 for `length-delimited`."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


def _varint(number: int) -> bytes:
    """The encoding of a length."""
    if number < 0x80:  # noqa: PLR2004 - seven bits fit into one byte
        return bytes([number])
    return bytes([number & 0x7F | 0x80]) + _varint(number >> 7)


_METADATA_TAG = _tag(CheckResponse, "dynamic_metadata")
_HEADER_TAG = _tag(HeaderValueOption, "header")
_RATE_LIMIT = HeaderValue(key="ratelimit").SerializeToString() + _tag(HeaderValue, "value")
"""A header `ratelimit`, up to the length of its value."""

_REMAINING = Struct(fields={"remaining": Value(number_value=0)}).SerializeToString()[: -len(pack("<d", 0))]
"""A Struct with the field `remaining`, up to its number, which comes last."""
