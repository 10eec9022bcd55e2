"""CheckRequest bytes -> Request, Answer -> CheckResponse bytes. Every transport uses these two.

Field rules were read off a running Envoy: `append_action` is always set, since its default differs between
the kinds of answer and Envoy drops a denied header with the older `append`; a deny always carries a non-zero
code, since only the code decides.
"""

from collections.abc import Iterable, Mapping

from google.protobuf.message import DecodeError

from ratelimitd.core.model import Answer, Reply, Request
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderMap, HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

SERVICE = "envoy.service.auth.v3.Authorization"
"""The gRPC service whose method Check this is."""

# google.rpc.Code by the HTTP status of the refusal
_CODES = {429: 8, 503: 14}

API_EXTENSION = "api"
"""The key in an Envoy route's context_extensions that holds the route's pattern."""


def decode(payload: bytes) -> Request:
    """The HTTP request in a serialized CheckRequest. Raises MalformedRequestError."""
    try:
        attributes = CheckRequest.FromString(payload).attributes
    except DecodeError as error:
        raise MalformedRequestError("the message is no envoy.service.auth.v3.CheckRequest") from error
    if not attributes.request.HasField("http"):
        raise MalformedRequestError("attributes.request.http is missing: only HTTP requests can be limited")
    http = attributes.request.http
    raw = http.header_map.headers
    return Request(
        method=http.method,
        path=http.path.partition("?")[0],
        host=http.host,
        headers=_raw_headers(http.header_map) if raw else http.headers,
        peer_address=attributes.source.address.socket_address.address,
        api=attributes.context_extensions.get(API_EXTENSION),
    )


def _raw_headers(header_map: HeaderMap) -> Mapping[str, str]:
    """Headers as sent with encode_raw_headers, in the one form that the core knows."""
    headers: dict[str, str] = {}
    for header in header_map.headers:
        value = header.raw_value.decode(errors="surrogateescape") or header.value
        earlier = headers.get(header.key)
        headers[header.key] = value if earlier is None else f"{earlier},{value}"
    return headers


def encode(answer: Answer) -> bytes:
    """The serialized CheckResponse."""
    response = CheckResponse()
    if answer.reply is Reply.OK:
        response.status.code = 0
        response.ok_response.response_headers_to_add.extend(_options(answer.headers))
    else:
        response.status.code = _CODES[answer.http_status]
        refusal = response.denied_response if answer.reply is Reply.DENIED else response.error_response
        refusal.status.code = answer.http_status
        refusal.headers.extend(_options(answer.headers))
        refusal.body = answer.body
    for key, value in answer.metadata.items():
        field = response.dynamic_metadata.fields[key]
        if isinstance(value, str):
            field.string_value = value
        else:
            field.number_value = value
    return response.SerializeToString()


def _options(headers: Iterable[tuple[str, str]]) -> Iterable[HeaderValueOption]:
    for key, value in headers:
        yield HeaderValueOption(
            header=HeaderValue(key=key, value=value),
            append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
