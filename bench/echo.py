"""What both floors answer: bytes as long as an allowed decision's, made once."""

from ratelimitd.core.headers import limit_field, policy_field, rate_limit_fields
from ratelimitd.core.model import MICRO, Answer, Limit, Reply, TierName
from ratelimitd.transport.translate import encode

SERVICE, METHOD = "bench.Echo", "Echo"
PATH = f"/{SERVICE}/{METHOD}"
HOSTED = "bench.echo_fast:application"
"""What an Envoy loads."""

_LIMITS = [(name, Limit(100, 5.0)) for name in TierName]
ANSWER = encode(
    Answer(
        Reply.OK,
        200,
        rate_limit_fields(policy_field(_LIMITS), limit_field(_LIMITS, [99 * MICRO] * len(_LIMITS))),
        "",
        {
            "outcome": "allowed",
            "tier": "user_api",
            "remaining": 99,
            "identity": "header",
            "policy": "0123456789ab",
        },
    )
)
"""The message, without gRPC's prefix."""
