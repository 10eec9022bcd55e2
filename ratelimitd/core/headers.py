"""The response fields that tell a client where it stands.

Sources: draft-ietf-httpapi-ratelimit-headers-10 for RateLimit-Policy (q quota, w window in seconds) and
RateLimit (r remaining, t seconds until full again); RFC 9110 section 10.2.3 for Retry-After; Envoy's router
filter for x-envoy-ratelimited, which stops meshes from retrying a limited request.
"""

from collections.abc import Sequence

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest, Tier, TierName

Headers = tuple[tuple[str, str], ...]


def whole_seconds(us: int) -> int:
    """Microseconds as seconds, rounded up: a client that waits so long has waited enough."""
    return -(-us // MICRO)


def rate_limit_fields(tiers: Sequence[Tier], tokens: Sequence[int]) -> Headers:
    """Both RateLimit fields, one item per tier. `tokens` are the microtokens left in each."""
    policies = (f'"{tier.name}";q={tier.limit.capacity};w={_full_in_s(0, tier.limit)}' for tier in tiers)
    states = (
        f'"{tier.name}";r={left // MICRO};t={_full_in_s(left, tier.limit)}'
        for tier, left in zip(tiers, tokens, strict=True)
    )
    return (("ratelimit-policy", ", ".join(policies)), ("ratelimit", ", ".join(states)))


def _full_in_s(tokens: int, limit: Limit) -> int:
    return whole_seconds(wait_us(tokens, limit.capacity_micro, limit))


def denying_tier(request: TakeRequest, outcome: Outcome) -> tuple[TierName, int]:
    """The tier that said no and the wait in microseconds until it can pay: the longest, as all must pay."""
    waits = (
        (tier.name, wait_us(tokens, request.cost, tier.limit))
        for tier, tokens in zip(request.tiers, outcome.tokens, strict=True)
    )
    return max(waits, key=lambda wait: wait[1])


def denied_fields(tier: TierName, retry_after_us: int) -> Headers:
    """What a 429 adds to the RateLimit fields."""
    return (
        ("content-type", "application/json"),
        ("retry-after", str(whole_seconds(retry_after_us))),
        ("x-ratelimit-tier", tier),
        ("x-envoy-ratelimited", "true"),
    )


def grpc_fields(content_type: str, grpc_status: int) -> Headers:
    """For a gRPC client, which sees only HTTP 200 and grpc-status; nothing for any other.

    Without it Envoy reports status 14 for every refusal. Envoy itself sets grpc-message, to the body.
    """
    if not content_type.startswith("application/grpc"):
        return ()
    return (("grpc-status", str(grpc_status)),)
