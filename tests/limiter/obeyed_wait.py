"""Checks that a client who obeys the wait of a denial once is allowed, if nobody spends meanwhile."""

from collections.abc import Mapping

from ratelimitd.core.bucket import Bucket, charge_buckets
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.headers import whole_seconds
from ratelimitd.core.model import MICRO, Charge, Outcome, TakeRequest
from ratelimitd.core.tiers import TierName

ROUNDING = 2
"""Microtokens that may be missing: the refill is added up in up to three parts, each rounded down."""


def retry_after_s(request: TakeRequest, denial: Outcome) -> int | None:
    """Returns the value of the field `retry-after`, None if there is none."""
    limits = list(zip(TierName, request.charge.limits, strict=False))
    _, us = denying_tier(limits, request.charge.cost, denial.tokens)
    return None if us is None else whole_seconds(us)


def is_allowed_after_the_wait(
    request: TakeRequest, denial: Outcome, buckets: Mapping[str, Bucket], now_us: int
) -> bool:
    """Returns whether the request is allowed after the wait of its denial at `now_us`.

    A denial without a wait, because the cost exceeds a capacity, counts as allowed here.
    """
    limits = request.charge.limits
    wait_s = retry_after_s(request, denial)
    if wait_s is None:
        return True
    later_us = now_us + wait_s * MICRO
    again = TakeRequest(Charge(request.charge.cost - ROUNDING, limits), request.keys[: len(limits)])
    return charge_buckets(buckets, again, later_us)[0].allowed
