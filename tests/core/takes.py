"""What a test takes, from buckets that it names."""

from collections.abc import Mapping
from functools import lru_cache

from ratelimitd.core.model import MICRO, Charge, Limit, TakeRequest

charge_of = lru_cache(Charge)
"""The same charge for the same numbers, as the matched rules of a policy have it."""


def taking(
    limits: Mapping[str, Limit],
    cost: int = MICRO,
    shadow: Mapping[str, Limit] | None = None,
    *,
    dry_run: bool = False,
) -> TakeRequest:
    """A request on buckets with these keys and limits."""
    shadow = shadow or {}
    charge = charge_of(cost, tuple(limits.values()), tuple(shadow.values()))
    return TakeRequest(charge, (*limits, *shadow), dry_run)
