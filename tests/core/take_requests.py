"""Builds take requests from a mapping of keys to limits."""

from collections.abc import Mapping
from functools import lru_cache

from ratelimitd.core.model import MICRO, Charge, Limit, TakeRequest

charge_of = lru_cache(Charge)
"""Returns the same object for equal arguments, as the matched rules of a policy do."""


def take_request(
    limits: Mapping[str, Limit],
    cost: int = MICRO,
    shadow: Mapping[str, Limit] | None = None,
    *,
    dry_run: bool = False,
) -> TakeRequest:
    """Returns a request that charges `cost` microtokens to the buckets with these keys and limits."""
    shadow = shadow or {}
    charge = charge_of(cost, tuple(limits.values()), tuple(shadow.values()))
    return TakeRequest(charge, (*limits, *shadow), dry_run)
