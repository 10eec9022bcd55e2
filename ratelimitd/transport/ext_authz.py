"""Envoy's external authorization: CheckRequest bytes to a Request, a decision to CheckResponse bytes.

Field rules were read off a running Envoy: headers of an allowed request are appended to the backend's,
headers of a refusal overwrite, since Envoy drops those that are to be appended; a refusal always carries a
non-zero code, since only the code decides.
"""

from collections.abc import Callable, Mapping, Sequence

from google.protobuf.message import DecodeError

from ratelimitd.core.model import Request, new
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValue
from ratelimitd.transport._pb.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from ratelimitd.transport.check_response import ResponseEncoder
from ratelimitd.transport.decision_encoder import DecisionEncoder
from ratelimitd.transport.hand_over import KEY, HandOver

SERVICE = "envoy.service.auth.v3.Authorization"
"""The gRPC service; its only method is Check."""

NAMESPACE = "envoy.filters.http.ext_authz"
"""The namespace of the metadata that Envoy keeps of its external authorization."""

BODIES = ((1, 4, 2, 11), (1, 4, 2, 12))
"""Paths of the fields with the request body: `body` and `raw_body` of attributes.request.http."""


def decode(payload: bytes, traceparent: str = "") -> Request:
    """The HTTP request in a serialized CheckRequest. Raises MalformedRequestError.

    Args:
        payload: the message.
        traceparent: of the call's metadata, empty when it has none.
    """
    return _request(_attributes(payload), traceparent)


def decode_or_fetch(hand_over: HandOver) -> Callable[[bytes, str], Request | bytes]:
    """Returns a variant of `decode`, which returns the serialized response if the message fetches one."""

    def decoded(payload: bytes, traceparent: str) -> Request | bytes:
        attributes = _attributes(payload)
        if attributes.HasField("metadata_context"):
            metadata = attributes.metadata_context.filter_metadata[NAMESPACE].fields
            if (response := hand_over.fetch(metadata[KEY].string_value)) is not None:
                return response
        return _request(attributes, traceparent)

    return decoded


def _attributes(payload: bytes) -> AttributeContext:
    try:
        return CheckRequest.FromString(payload).attributes
    except DecodeError as error:
        raise MalformedRequestError("the message is not an envoy.service.auth.v3.CheckRequest") from error


def _request(attributes: AttributeContext, traceparent: str) -> Request:
    request = attributes.request
    http = request.http
    path = http.path
    if not path and not request.HasField("http"):  # every request has a path, which costs less to read
        raise MalformedRequestError("attributes.request.http is missing: only HTTP requests can be limited")
    # The slice copies the headers into a list: iterating over the field itself takes most of the time.
    raw = http.header_map.headers[:]
    return new(
        Request,
        (
            http.method,
            path.partition("?")[0],
            http.host,
            _raw_headers(raw) if raw else http.headers,
            attributes.source.address.socket_address.address,
            attributes.context_extensions,
            traceparent,
        ),
    )


def _raw_headers(raw: Sequence[HeaderValue]) -> Mapping[str, str]:
    """Headers that Envoy sent with encode_raw_headers, in the form that the core reads."""
    headers: dict[str, str] = {}
    for header in raw:
        key, value = header.key, header.raw_value.decode("utf-8", "surrogateescape") or header.value
        headers[key] = f"{headers[key]},{value}" if key in headers else value
    return headers


def encoder() -> DecisionEncoder[bytes]:
    """Returns an encoder of decisions as serialized CheckResponses."""
    return DecisionEncoder(ResponseEncoder().encode)
