"""Write a CheckResponse from a rendered response; building the message anew takes seven times as long.

The bytes of a template are made once, with protobuf. Those of one response are put between them:

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
        metadata: the content of `dynamic_metadata`, without `remaining`.
    """

    status: bytes
    tag: bytes
    content: bytes
    header_tag: bytes
    metadata: bytes


class ResponseEncoder:
    """Encodes responses, and keeps the bytes of recent templates and denials.

    Args:
        max_entries: templates and denials that are kept, of each; the least recently used are dropped first.
    """

    def __init__(self, max_entries: int = 8192) -> None:
        cached = lru_cache(max_entries)
        self._template = cached(_encode_template)
        # Repeat denials of one identity are the identical response, for which the bytes are kept whole.
        self._denial = cached(self._encode)

    def __call__(self, response: Response) -> bytes:
        """The serialized CheckResponse."""
        if response.template.kind is ResponseKind.DENIED:
            return self._denial(response)
        return self._encode(response)

    def _encode(self, response: Response) -> bytes:
        template, rate_limit, remaining = response
        status, tag, content, header_tag, metadata = self._template(template)
        if rate_limit:
            value = rate_limit.encode()
            header = _RATE_LIMIT + _VALUE_TAG + _varint(len(value)) + value
            option = _HEADER_TAG + _varint(len(header)) + header + _OVERWRITE
            content += header_tag + _varint(len(option)) + option
        if remaining is not None:
            metadata += _REMAINING + pack("<d", remaining)
        return (
            status + tag + _varint(len(content)) + content + _METADATA_TAG + _varint(len(metadata)) + metadata
        )


def _encode_template(template: ResponseTemplate) -> _EncodedTemplate:
    response = CheckResponse()
    ok = template.kind is ResponseKind.OK
    response.status.code = GrpcCode.OK if ok else _CODES[template.http_status]
    reply = OkHttpResponse() if ok else DeniedHttpResponse(body=template.body)
    if isinstance(reply, DeniedHttpResponse):
        reply.status.code = template.http_status
    headers = reply.response_headers_to_add if isinstance(reply, OkHttpResponse) else reply.headers
    for key, value in template.headers:
        headers.add(header=HeaderValue(key=key, value=value), append_action=_ACTION)
    metadata = Struct()
    metadata.update(dict(template.metadata))
    return _EncodedTemplate(
        response.SerializeToString(),
        _tag(CheckResponse, template.kind.value),
        reply.SerializeToString(),
        _tag(type(reply), "response_headers_to_add" if ok else "headers"),
        metadata.SerializeToString(),
    )


def _tag(message: type[Message], field: str) -> bytes:
    """The tag of a field that holds bytes: its number, and 2 for `length-delimited`."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


def _varint(number: int) -> bytes:
    if number < len(_VARINTS):
        return _VARINTS[number]
    return bytes([number & 0x7F | 0x80]) + _varint(number >> 7)


_VARINTS = [bytes([number]) for number in range(0x80)]
"""Lengths of one byte."""

_VARINTS += [bytes([number & 0x7F | 0x80, number >> 7]) for number in range(0x80, 0x800)]
"""Lengths of two bytes, as far as responses have them."""

_ACTION = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_OVERWRITE = HeaderValueOption(append_action=_ACTION).SerializeToString()
_METADATA_TAG = _tag(CheckResponse, "dynamic_metadata")
_HEADER_TAG = _tag(HeaderValueOption, "header")
_VALUE_TAG = _tag(HeaderValue, "value")
_RATE_LIMIT = HeaderValue(key="ratelimit").SerializeToString()
_REMAINING = Struct(fields={"remaining": Value(number_value=0)}).SerializeToString()[: -len(pack("<d", 0))]
"""A Struct with the field `remaining`, up to its number, which comes last."""
