"""gRPC methods of the direct load: requests, built with envoy-data-plane, and the meaning of responses."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from envoy_data_plane.envoy.config.core.v3 import Address, HeaderMap, HeaderValue, SocketAddress
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import (
    RateLimitDescriptor,
    RateLimitDescriptorEntry,
)
from envoy_data_plane.envoy.service.auth.v3 import (
    AttributeContext,
    AttributeContextHttpRequest,
    AttributeContextPeer,
    AttributeContextRequest,
    CheckRequest,
)
from envoy_data_plane.envoy.service.ratelimit.v3 import RateLimitRequest

from bench import echo
from bench.workloads import API
from ratelimitd.core.grpc_code import GrpcCode

USER = b"01234567"
"""Placeholder for a user's number in a message."""

RLS_DOMAIN = "bench"
PREFIX_BYTES = 5
"""Length of gRPC's prefix of a message."""

_LENGTH_DELIMITED_1, _VARINT_1 = 0x0A, 0x08  # tags of field 1 with these wire types
_RLS_OK, _RLS_OVER_LIMIT = 1, 2


@dataclass(frozen=True)
class Method:
    """A gRPC method under load.

    Args:
        path: `/SERVICE/METHOD`.
        pieces: the message with gRPC's prefix, split where the user's number goes.
        outcome: maps the first bytes of a response to `allowed`, `denied` or, without a decision, `failed`.
    """

    path: str
    pieces: tuple[bytes, ...]
    outcome: Callable[[bytes], str]


def _method(path: str, message: bytes, outcome: Callable[[bytes], str]) -> Method:
    framed = b"\0" + len(message).to_bytes(4) + message
    return Method(path, tuple(framed.split(USER)), outcome)


def check() -> Method:
    """The CheckRequest that Envoy sends for GET /api/ping with the shipped envoy.yaml: about 220 bytes."""
    attributes = AttributeContext(
        source=_peer(55766),
        destination=_peer(18081),
        request=AttributeContextRequest(
            time=datetime(2026, 1, 2, 3, 4, 5, 71447, tzinfo=UTC),
            http=AttributeContextHttpRequest(
                id="5746887951094990255",
                method="GET",
                path="/api/ping",
                host="127.0.0.1:18081",
                scheme="http",
                protocol="HTTP/1.1",
                header_map=HeaderMap(
                    headers=[
                        HeaderValue(key="x-user-id", raw_value=b"u" + USER),
                        HeaderValue(key="x-ratelimitd-client-address", raw_value=b"127.0.0.1"),
                    ]
                ),
            ),
        ),
        context_extensions={"api": API},
    )
    request = bytes(CheckRequest(attributes=attributes))
    return _method("/envoy.service.auth.v3.Authorization/Check", request, check_outcome)


def _peer(port: int) -> AttributeContextPeer:
    socket_address = SocketAddress(address="127.0.0.1", port_value=port)
    return AttributeContextPeer(address=Address(socket_address=socket_address))


def check_outcome(first: bytes) -> str:
    """Outcome of a CheckResponse: its `status.code`, absent for OK. UNAVAILABLE is not a decision."""
    compressed, message = first[:1] != b"\0", first[PREFIX_BYTES:]
    if compressed:
        return "failed"
    if len(message) < 4 or message[0] != _LENGTH_DELIMITED_1 or not message[1] or message[2] != _VARINT_1:  # noqa: PLR2004 - tag, length, tag, code
        return "allowed"
    return "failed" if message[3] == GrpcCode.UNAVAILABLE else "denied"


def should_rate_limit() -> Method:
    """The same three buckets as RLS descriptors: (tier, global); (user, ID); (user, ID), (api, /api/*)."""
    user = RateLimitDescriptorEntry(key="user", value=f"u{USER.decode()}")
    request = RateLimitRequest(
        domain=RLS_DOMAIN,
        descriptors=[
            RateLimitDescriptor(entries=[RateLimitDescriptorEntry(key="tier", value="global")]),
            RateLimitDescriptor(entries=[user]),
            RateLimitDescriptor(entries=[user, RateLimitDescriptorEntry(key="api", value=API)]),
        ],
    )
    path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
    return _method(path, bytes(request), rls_outcome)


def rls_outcome(first: bytes) -> str:
    """Outcome of a RateLimitResponse: its `overall_code`."""
    message = first[PREFIX_BYTES:]
    if first[:1] != b"\0" or len(message) < 2 or message[0] != _VARINT_1:  # noqa: PLR2004 - tag, code
        return "failed"
    return {_RLS_OK: "allowed", _RLS_OVER_LIMIT: "denied"}.get(message[1], "failed")


def echo_call() -> Method:
    """The echo servers' method, called with a CheckRequest. Every non-empty response counts as allowed."""
    return Method(echo.PATH, check().pieces, lambda first: "allowed" if first[PREFIX_BYTES:] else "failed")
