from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.telemetry.histogram import BOUNDS_NS, Histogram

DURATIONS = st.one_of(
    st.integers(0, 2_000_000_000),
    st.sampled_from(BOUNDS_NS),
    st.sampled_from(BOUNDS_NS).map(lambda ns: ns + 1),
)


@given(st.lists(DURATIONS))
def test_a_duration_counts_in_the_first_bucket_whose_bound_is_not_below_it(durations: list[int]) -> None:
    histogram = Histogram()
    for ns in durations:
        histogram.observe(ns)
    bounds = [-1, *BOUNDS_NS, 10**18]
    assert histogram.counts == [sum(low < ns <= high for ns in durations) for low, high in pairwise(bounds)]
    assert histogram.sum_ns == sum(durations)
