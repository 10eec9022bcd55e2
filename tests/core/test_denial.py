from hypothesis import example, given
from hypothesis import strategies as st

from ratelimitd.core.denial import denying_tier, denying_tier_name
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.core.tiers import TierName

LIMITS = st.builds(Limit, st.integers(1, 5), st.sampled_from([0.1, 1.0, 3.0]))
TOKENS = st.none() | st.integers(-2 * MICRO, 5 * MICRO)


@given(st.integers(1, 6), st.lists(st.tuples(LIMITS, TOKENS), min_size=1, max_size=3))
@example(1, [(Limit(5, 3.0), 0), (Limit(5, 0.1), 0)])
@example(3, [(Limit(5, 1.0), 0), (Limit(2, 1.0), None)])
def test_the_name_of_the_denying_tier_is_that_with_the_wait(
    cost: int, buckets: list[tuple[Limit, int | None]]
) -> None:
    """Denials only: a tier is known to hold less than the cost. No bucket holds more than its capacity."""
    limits = [(tier, limit) for tier, (limit, _) in zip(TierName, buckets, strict=False)]
    tokens = [None if left is None else min(left, limit.capacity_micro) for limit, left in buckets]
    if any(left is not None and left < cost * MICRO for left in tokens):
        tier, _ = denying_tier(limits, cost * MICRO, tokens)
        assert denying_tier_name(limits, cost * MICRO, tokens) == tier
