"""Every parser of structured fields accepts the RateLimit fields, and every client Retry-After."""

from math import floor
from typing import Any

import http_sf
from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.bucket import wait_us
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.headers import denied_fields, limit_field, limit_items, policy_field, whole_seconds
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.tiers import TierName
from ratelimitd.policy.field_types import MAX_TOKENS, MIN_RATE

LARGEST = Limit(MAX_TOKENS, MIN_RATE)
LIMITS = st.builds(
    Limit,
    st.integers(1, MAX_TOKENS) | st.sampled_from([1, MAX_TOKENS - 1, MAX_TOKENS]),
    st.floats(MIN_RATE, MAX_TOKENS) | st.sampled_from([MIN_RATE, 0.000002, 1.0, float(MAX_TOKENS)]),
)
SHARES = st.floats(0, 1) | st.sampled_from([0.0, 1.0])


def parsed(field: str) -> dict[str, dict[str, Any]]:
    """Returns the parameters of each item of a field. Raises an error for an invalid field."""
    items: Any = http_sf.parse(field.encode(), tltype="list")
    return dict(items)


@given(st.lists(st.tuples(LIMITS, SHARES), min_size=1, max_size=3), st.integers(0, MAX_TOKENS))
@example([(LARGEST, 0.0)], MAX_TOKENS)
@example([(LARGEST, 0.0), (Limit(1, MIN_RATE), 1.0)], 0)
def test_every_legal_limit_and_cost_gives_valid_fields(held: list[tuple[Limit, float]], cost: int) -> None:
    """Each tier holds a share of its capacity."""
    tiers = [(name, limit) for name, (limit, _) in zip(TierName, held, strict=False)]
    left = [int(limit.capacity_micro * share) for limit, share in held]
    policy = parsed(policy_field(tiers))
    remaining = parsed(limit_field(limit_items(tiers), left))
    for (name, limit), tokens in zip(tiers, left, strict=True):
        assert policy[name]["q"] == limit.capacity
        assert 1 <= policy[name]["w"] <= 999_999_999_999_999
        assert remaining[name]["r"] == tokens // MICRO
        assert 0 <= remaining[name]["t"] <= policy[name]["w"]
    fields = dict(denied_fields(*denying_tier(tiers, cost * MICRO, left)))
    assert ("retry-after" in fields) == all(cost <= limit.capacity for _, limit in tiers)
    assert 0 <= int(fields.get("retry-after", 0)) < 2**31


@given(LIMITS, st.integers(-2, 2))
def test_the_seconds_until_full_are_the_wait_for_what_is_missing(limit: Limit, more: int) -> None:
    """About as much is missing as refills in a second."""
    missing = min(max(0, floor(MICRO * limit.refill_rate) + more), limit.capacity_micro)
    remaining = parsed(limit_field(limit_items([(TierName.USER, limit)]), [limit.capacity_micro - missing]))
    assert remaining["user"]["t"] == whole_seconds(wait_us(missing, limit.refill_rate))


def test_the_largest_window_is_cut_to_fifteen_digits() -> None:
    assert policy_field([(TierName.USER, LARGEST)]) == '"user";q=1000000000;w=999999999999999'
    assert limit_field(limit_items([(TierName.USER, LARGEST)]), [0]) == '"user";r=0;t=999999999999999'
