"""The header fields that tell a client how much of its limits is left.

Sources: draft-ietf-httpapi-ratelimit-headers-10 for RateLimit-Policy (q quota, w window in seconds) and
RateLimit (r remaining, t seconds until full again), both of which are structured fields; RFC 9110 section
10.2.3 for Retry-After; Envoy's router filter for x-envoy-ratelimited, which stops service meshes from
retrying a limited request.
"""

from collections.abc import Sequence
from math import floor

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.core.match import TierLimit
from ratelimitd.core.model import MICRO, Request
from ratelimitd.core.tiers import TierName

Headers = tuple[tuple[str, str], ...]

MAX_INTEGER = 999_999_999_999_999
"""Largest integer in a structured field (RFC 9651, 3.3.1). Parsers reject a field with a larger one."""

MAX_RETRY_AFTER_S = 2**31 - 1
"""Largest Retry-After, 68 years. Many clients read it into 32 bits, and a larger one would mean no wait."""


def whole_seconds(us: int) -> int:
    """Microseconds as seconds, at most MAX_INTEGER, rounded up: a client that waits so long waits enough."""
    seconds = -(-us // MICRO)
    return seconds if seconds < MAX_INTEGER else MAX_INTEGER  # noqa: FURB136 - min() takes 60 ns longer


def policy_field(limits: Sequence[TierLimit]) -> str:
    """RateLimit-Policy: one item per tier."""
    return ", ".join(
        f'"{name}";q={limit.capacity};w={whole_seconds(wait_us(limit.capacity_micro, limit.refill_rate))}'
        for name, limit in limits
    )


LimitItem = tuple[str, int, float, int]
"""One tier's item of RateLimit, all but its tokens: the text before the first number, the capacity in
microtokens, the refill rate, and the microtokens that refill in a second. A plain tuple is unpacked faster
than a named one."""


def limit_items(limits: Sequence[TierLimit]) -> tuple[LimitItem, ...]:
    """The items for `limit_field`, built once for all requests with the same rules."""
    return tuple(
        [
            (f'"{name}";r=', limit.capacity_micro, limit.refill_rate, floor(MICRO * limit.refill_rate))
            for name, limit in limits
        ]
    )


def limit_field(items: Sequence[LimitItem], tokens: Sequence[int | None]) -> str:
    """RateLimit: whole tokens left and whole seconds until full again, of each tier whose tokens are known.

    Args:
        items: one per tier.
        tokens: microtokens left in each tier, None where not known.
    """
    fields = []
    # zip(strict=True) costs 80 ns here; both lists are of one decision
    for (start, capacity_micro, refill_rate, in_a_second), left in zip(items, tokens):  # noqa: B905
        if left is None:
            continue
        missing = capacity_micro - left
        # Most buckets are full again within a second, and the calculation takes 0.3 us.
        seconds = 1 if 0 < missing <= in_a_second else whole_seconds(wait_us(missing, refill_rate))
        fields.append(f"{start}{left // MICRO if left > 0 else 0};t={seconds}")
    return ", ".join(fields)


def denied_fields(tier: TierName, retry_after_us: int | None) -> Headers:
    """The fields that a 429 has beside the RateLimit fields; no Retry-After where no wait helps.

    Args:
        tier: the tier that denied.
        retry_after_us: until it can pay; None if it never can.
    """
    fields = (
        ("content-type", "application/json"),
        ("x-ratelimit-tier", tier),
        ("x-envoy-ratelimited", "true"),
    )
    if retry_after_us is None:
        return fields
    return (("retry-after", str(retry_after_s(retry_after_us))), *fields)


def retry_after_s(retry_after_us: int) -> int:
    """Retry-After for a wait in microseconds."""
    return min(whole_seconds(retry_after_us), MAX_RETRY_AFTER_S)


def grpc_fields(request: Request, code: GrpcCode) -> Headers:
    """The status of a refusal for a gRPC client, which sees HTTP 200 in any case; none for other clients.

    Without this field Envoy reports each refusal as UNAVAILABLE. Envoy sets grpc-message itself, to the
    body.
    """
    if not request.headers.get("content-type", "").startswith("application/grpc"):
        return ()
    return _GRPC_STATUS[code]


_GRPC_STATUS: dict[GrpcCode, Headers] = {code: (("grpc-status", str(int(code))),) for code in GrpcCode}
