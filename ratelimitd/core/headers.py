"""The response fields that tell a client where it stands.

Sources: draft-ietf-httpapi-ratelimit-headers-10 for RateLimit-Policy (q quota, w window in seconds) and
RateLimit (r remaining, t seconds until full again); RFC 9110 section 10.2.3 for Retry-After; Envoy's router
filter for x-envoy-ratelimited, which stops meshes from retrying a limited request.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.model import MICRO, Limit, TierName

Headers = tuple[tuple[str, str], ...]

Limits = Sequence[tuple[TierName, Limit]]
"""Tiers that a request spends from, in their order."""


def whole_seconds(us: int) -> int:
    """Microseconds as seconds, rounded up: a client that waits so long has waited enough."""
    return -(-us // MICRO)


def policy_field(limits: Limits) -> str:
    """RateLimit-Policy: one item per tier."""
    return ", ".join(
        f'"{name}";q={limit.capacity};w={whole_seconds(wait_us(limit.capacity_micro, limit.refill_rate))}'
        for name, limit in limits
    )


class LimitItem(NamedTuple):
    """What a tier's item in RateLimit is made from, beside its tokens. `begin` ends at the first number."""

    begin: str
    capacity_micro: int
    refill_rate: float


def limit_items(limits: Limits) -> tuple[LimitItem, ...]:
    """These for `limit_field`, once for all requests of a kind."""
    return tuple(
        [LimitItem(f'"{name}";r=', limit.capacity_micro, limit.refill_rate) for name, limit in limits]
    )


def limit_field(items: Sequence[LimitItem], tokens: Sequence[int | None]) -> str:
    """RateLimit: whole tokens left, and whole seconds until full again, of each tier that is known."""
    return ", ".join(
        [
            f"{begin}{left // MICRO};t={whole_seconds(wait_us(capacity_micro - left, refill_rate))}"
            for (begin, capacity_micro, refill_rate), left in zip(items, tokens)  # noqa: B905 - it is not free
            if left is not None
        ]
    )


def denying_tier(limits: Limits, cost: int, tokens: Sequence[int | None]) -> tuple[TierName, int]:
    """The tier that said no and the wait in microseconds until it can pay: the longest, as all must pay.

    Tiers of which nothing is known take no part.
    """
    longest_us, denying = -1, TierName.GLOBAL
    for (name, limit), left in zip(limits, tokens, strict=True):
        if left is not None and (us := wait_us(cost - left, limit.refill_rate)) > longest_us:
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
