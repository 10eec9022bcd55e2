"""The fixed response of all echo servers. It is as long as the response of an allowed decision."""

from ratelimitd.core.headers import limit_field, limit_items, policy_field
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.response import Response, ResponseKind, ResponseTemplate
from ratelimitd.core.tiers import TierName
from ratelimitd.transport.check_response import ResponseEncoder

SERVICE, METHOD = "bench.Echo", "Echo"
PATH = f"/{SERVICE}/{METHOD}"
APPLICATION = "bench.echo_fast:application"
"""The ASGI application that an Envoy loads."""

_LIMITS = [(name, Limit(100, 5.0)) for name in TierName]
_METADATA = {"outcome": "allowed", "tier": "user_api", "identity": "header", "policy": "0123456789ab"}
_POLICY = ("ratelimit-policy", policy_field(_LIMITS))
_LIMIT = limit_field(limit_items(_LIMITS), [99 * MICRO] * len(_LIMITS))
_TEMPLATE = ResponseTemplate(ResponseKind.OK, 200, (_POLICY,), metadata=tuple(_METADATA.items()))
RESPONSE = ResponseEncoder().encode(Response(_TEMPLATE, _LIMIT, 99))
"""The encoded message, without gRPC's prefix."""

FIELDS = [(name.encode(), value.encode()) for name, value in (_POLICY, ("ratelimit", _LIMIT))]
"""The headers of the same response over HTTP, without metadata."""
