"""The response fields that tell a client where it stands.

Sources: draft-ietf-httpapi-ratelimit-headers-10 for RateLimit-Policy (q quota, w window in seconds) and
RateLimit (r remaining, t seconds until full again); RFC 9110 section 10.2.3 for Retry-After; Envoy's router
filter for x-envoy-ratelimited, which stops meshes from retrying a limited request.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.model import MICRO, Limit, Tier, TierName

Headers = tuple[tuple[str, str], ...]


def whole_seconds(us: int) -> int:
    """Microseconds as seconds, rounded up: a client that waits so long has waited enough."""
    return -(-us // MICRO)


class State(NamedTuple):
    """Where a client stands in a tier, as it is told: whole tokens left, whole seconds until full again."""

    name: TierName
    remaining: int
    reset_after_s: int


def states(tiers: Sequence[Tier], tokens: Sequence[int | None]) -> tuple[State, ...]:
    """The state of each tier whose microtokens are known."""
    return tuple(
        [
            State(name, left // MICRO, whole_seconds(wait_us(left, limit.capacity * MICRO, limit)))
            for (name, _, limit), left in zip(tiers, tokens, strict=True)
            if left is not None
        ]
    )


def policy_field(tiers: Sequence[Tier]) -> str:
    """RateLimit-Policy: one item per tier."""
    return _policy_field(tuple([(name, limit) for name, _, limit in tiers]))


@lru_cache(maxsize=1024)
def _policy_field(limits: Sequence[tuple[TierName, Limit]]) -> str:
    # There are as many different ones as a policy has routes, and every answer needs one.
    return ", ".join(
        f'"{name}";q={limit.capacity};w={whole_seconds(wait_us(0, limit.capacity_micro, limit))}'
        for name, limit in limits
    )


def rate_limit_fields(policy: str, told: Sequence[State]) -> Headers:
    """Both RateLimit fields. A tier of which nothing is known stands in RateLimit-Policy alone."""
    items = [f'"{name}";r={remaining};t={reset_after_s}' for name, remaining, reset_after_s in told]
    return (("ratelimit-policy", policy), ("ratelimit", ", ".join(items)))


def denying_tier(tiers: Sequence[Tier], cost: int, tokens: Sequence[int | None]) -> tuple[TierName, int]:
    """The tier that said no and the wait in microseconds until it can pay: the longest, as all must pay.

    Tiers of which nothing is known take no part.
    """
    longest_us, denying = -1, TierName.GLOBAL
    for (name, _, limit), left in zip(tiers, tokens, strict=True):
        if left is not None and (us := wait_us(left, cost, limit)) > longest_us:
            longest_us, denying = us, name
    return denying, longest_us


def denied_fields(tier: TierName, retry_after_s: int) -> Headers:
    """What a 429 adds to the RateLimit fields."""
    return (
        ("content-type", "application/json"),
        ("retry-after", str(retry_after_s)),
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
