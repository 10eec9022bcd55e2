"""Token-bucket arithmetic: the pure oracle that `lua/take.lua` is tested against, number for number.

Tokens never leave 0..capacity, for any clock. In any window of t seconds a bucket admits a cost of at most
capacity + refill_rate * t. Amounts are whole microtokens; instants and waits are whole microseconds. A refill
is rounded down, once per admitted request, so rounding costs a bucket less than a microtoken per request and
never gives one away. The refill is one IEEE 754 double multiplication, as in Lua, so both agree to the bit.

`last` is in the future after a step of the clock or in a bucket that was written by hand. Such a bucket gets
no refill until then. A denial reports its tokens less the refill that is withheld, so the level may be
negative, and the wait that follows from it includes the time until `last`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ratelimitd.core.model import Limit, Outcome, TakeRequest

EXPIRY_MARGIN_US = 1_000_000
"""How long a bucket outlives the instant at which it is full again."""

MAX_WITHHELD = 2.0**62
"""Largest withheld refill, in microtokens: levels are 64-bit integers in the store's replies."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The value of a key in the store: microtokens, and when they were counted (us since the epoch)."""

    tokens: int
    last: int


def refill(bucket: Bucket | None, limit: Limit, now_us: int) -> Bucket:
    """The bucket at `now_us`; an unknown one is full. A clock before `last` refills nothing."""
    if bucket is None:
        return Bucket(limit.capacity_micro, now_us)
    elapsed_us = max(0, now_us - bucket.last)
    credit = math.floor(elapsed_us * limit.refill_rate)
    return Bucket(min(limit.capacity_micro, bucket.tokens + credit), max(now_us, bucket.last))


def withheld_refill(bucket: Bucket | None, limit: Limit, now_us: int) -> float:
    """Microtokens that would refill from now until a `last` in the future; 0 for any other bucket.

    A float like the script's numbers, because differences above 2^53 must be rounded in the same way.
    """
    if bucket is None or bucket.last <= now_us:
        return 0.0
    return min(MAX_WITHHELD, float(-math.floor((now_us - bucket.last) * limit.refill_rate)))


def charge_buckets(
    buckets: Mapping[str, Bucket], request: TakeRequest, now_us: int
) -> tuple[Outcome, dict[str, Bucket]]:
    """The outcome of a request, and the buckets to write: none when it is denied or takes nothing."""
    charge, keys, _ = request
    enforced = len(charge.limits)
    outcome, changed = _charge(buckets, keys[:enforced], charge.limits, request, now_us)
    if not outcome.allowed:
        withheld = any(buckets[key].last > now_us for key in keys[:enforced] if key in buckets)
        return outcome._replace(refill_withheld=withheld), {}
    if charge.shadow:
        shadow, changed_in_shadow = _charge(buckets, keys[enforced:], charge.shadow, request, now_us)
        return outcome._replace(shadow=shadow), changed | changed_in_shadow
    return outcome, changed


def _charge(
    buckets: Mapping[str, Bucket],
    keys: Sequence[str],
    limits: Sequence[Limit],
    request: TakeRequest,
    now_us: int,
) -> tuple[Outcome, dict[str, Bucket]]:
    cost = request.charge.cost
    full = {key: refill(buckets.get(key), limit, now_us) for key, limit in zip(keys, limits, strict=True)}
    allowed = all(bucket.tokens >= cost for bucket in full.values())
    taken = cost if allowed and not request.dry_run else 0
    left = {key: Bucket(bucket.tokens - taken, bucket.last) for key, bucket in full.items()}
    tokens = [
        bucket.tokens
        if allowed or bucket.tokens >= cost
        else int(bucket.tokens - withheld_refill(buckets.get(key), limit, now_us))
        for (key, bucket), limit in zip(left.items(), limits, strict=True)
    ]
    return Outcome(allowed, tuple(tokens)), left if taken else {}


def wait_us(deficit: int, refill_rate: float) -> int:
    """The shortest wait, in microseconds, after which `refill` adds at least `deficit` microtokens.

    Args:
        deficit: microtokens that are missing; none when it is not positive.
        refill_rate: microtokens per microsecond.
    """
    if deficit <= 0:
        return 0
    wait = math.floor(deficit / refill_rate)
    return wait if math.floor(wait * refill_rate) >= deficit else wait + 1


def expiry_ms(bucket: Bucket, limit: Limit, now_us: int) -> int:
    """How long the store keeps a bucket after a write: until it is full again, plus the margin.

    Only tests call it: it is the oracle of the script's PEXPIRE.
    """
    full_in_us = bucket.last - now_us + (limit.capacity_micro - bucket.tokens) / limit.refill_rate
    return math.ceil((full_in_us + EXPIRY_MARGIN_US) / 1000)
