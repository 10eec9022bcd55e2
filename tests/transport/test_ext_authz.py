"""Tests of decoding a CheckRequest and of encoding a CheckResponse."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.model import Request
from ratelimitd.core.response import Response, ResponseKind, ResponseTemplate
from ratelimitd.errors import MalformedRequestError
from ratelimitd.transport._pb.envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.check_response import ResponseEncoder
from ratelimitd.transport.ext_authz import decode


def check_request() -> CheckRequest:
    """Returns a request as Envoy sends it."""
    message = CheckRequest()
    http = message.attributes.request.http
    http.method, http.path, http.host = "GET", "/api/ping?q=1", "example.com"
    message.attributes.source.address.socket_address.address = "203.0.113.9"
    return message


def test_a_request_is_decoded_completely() -> None:
    """The path is decoded without the query."""
    message = check_request()
    message.attributes.request.http.headers["x-user-id"] = "user1"
    message.attributes.context_extensions["api"] = "/api/*"
    assert decode(message.SerializeToString()) == Request(
        "GET", "/api/ping", "example.com", {"x-user-id": "user1"}, "203.0.113.9", {"api": "/api/*"}
    )


def test_raw_headers_keep_their_bytes_and_join_duplicates() -> None:
    """The decoded request is the same as without encode_raw_headers."""
    message = check_request()
    for key, value in (("x-user-id", b"u1"), ("x-user-id", b"u2"), ("x-raw", b"\xff")):
        message.attributes.request.http.header_map.headers.add(key=key, raw_value=value)
    message.attributes.request.http.header_map.headers.add(key="x-plain", value="text")
    headers = decode(message.SerializeToString()).headers
    assert headers == {"x-user-id": "u1,u2", "x-raw": "\udcff", "x-plain": "text"}


def test_an_empty_request_says_what_is_missing() -> None:
    """Without this error, a call without data would charge a bucket."""
    with pytest.raises(MalformedRequestError, match=r"attributes\.request\.http is missing"):
        decode(b"")


def test_a_header_that_is_not_utf8_is_malformed() -> None:
    """protobuf raises the error, because a proto3 string must be UTF-8."""
    message = check_request()
    message.attributes.request.http.headers["x-user-id"] = "user1"
    with pytest.raises(MalformedRequestError, match=r"not an envoy\.service\.auth\.v3\.CheckRequest"):
        decode(message.SerializeToString().replace(b"user1", b"use\xff1"))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_malformed(payload: bytes) -> None:
    with contextlib.suppress(MalformedRequestError):
        assert isinstance(decode(payload), Request)


ACTIONS = {
    ResponseKind.OK: HeaderValueOption.APPEND_IF_EXISTS_OR_ADD,
    ResponseKind.DENIED: HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    ResponseKind.ERROR: HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
}
"""What Envoy does with each header, by the kind of reply."""


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (ResponseKind.OK, 200, 0),
        (ResponseKind.DENIED, 429, 8),
        (ResponseKind.DENIED, 503, 14),
        (ResponseKind.ERROR, 503, 14),
    ],
)
def test_a_response_sets_code_kind_headers_and_metadata(reply: ResponseKind, status: int, code: int) -> None:
    """Envoy allows or denies by the code alone, and joins or replaces headers by their action."""
    template = ResponseTemplate(reply, status, (("retry-after", "1"),), "body", (("tier", "user"),))
    response_in = Response(template, rate_limit='"user";r=2;t=3', remaining=2)
    response = CheckResponse.FromString(ResponseEncoder().encode(response_in))
    assert response.status.code == code
    assert response.WhichOneof("http_response") == reply.value
    if reply is ResponseKind.OK:
        options = response.ok_response.response_headers_to_add
    else:
        refusal = getattr(response, reply.value)
        assert (refusal.status.code, refusal.body) == (status, "body")
        options = refusal.headers
    assert [(o.header.key, o.header.value, o.append_action) for o in options] == [
        ("retry-after", "1", ACTIONS[reply]),
        ("ratelimit", '"user";r=2;t=3', ACTIONS[reply]),
    ]
    assert dict(response.dynamic_metadata.items()) == {"tier": "user", "remaining": 2.0}


LONG = st.integers(0, 40_000).map("x".__mul__)


@given(
    st.sampled_from(ResponseKind),
    st.lists(st.tuples(st.sampled_from(["a", "b"]), LONG), max_size=3),
    LONG,
    st.dictionaries(st.sampled_from(["x", "y"]), st.text(max_size=300)),
    st.none() | st.integers(0, 2**53),
)
def test_a_response_equals_the_message_that_protobuf_builds(
    reply: ResponseKind,
    headers: list[tuple[str, str]],
    rate_limit: str,
    metadata: dict[str, str],
    remaining: int | None,
) -> None:
    """The encoder concatenates encoded parts instead of building a message."""
    expected = CheckResponse()
    expected.status.code = 0 if reply is ResponseKind.OK else 8
    kind = getattr(expected, reply.value)
    kind.SetInParent()
    if reply is not ResponseKind.OK:
        kind.status.code, kind.body = 429, "body"
    options = kind.response_headers_to_add if reply is ResponseKind.OK else kind.headers
    own = [("ratelimit", rate_limit)] if rate_limit else []
    for key, value in headers + own:
        options.add(header=HeaderValue(key=key, value=value), append_action=ACTIONS[reply])
    expected.dynamic_metadata.SetInParent()
    expected.dynamic_metadata.update(metadata)
    if remaining is not None:
        expected.dynamic_metadata["remaining"] = remaining
    status = 200 if reply is ResponseKind.OK else 429
    template = ResponseTemplate(reply, status, tuple(headers), "body", tuple(metadata.items()))
    assert (
        CheckResponse.FromString(ResponseEncoder().encode(Response(template, rate_limit, remaining)))
        == expected
    )
