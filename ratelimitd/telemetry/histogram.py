"""A histogram of durations: plain integers, so that an observation takes a fraction of a microsecond."""

from bisect import bisect_left

BOUNDS_NS = (
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
)
"""The upper bounds of the buckets, inclusive, in nanoseconds: 50 us to 1 s."""


class Histogram:
    """Counts durations by bucket.

    Attributes:
        counts: durations in each bucket. The last one has no upper bound, so there is one more than bounds.
        sum_ns: the sum of all durations, in nanoseconds.
    """

    __slots__ = ("counts", "sum_ns")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_NS) + 1)
        self.sum_ns = 0

    def observe(self, ns: int) -> None:
        """Counts a duration, in nanoseconds."""
        self.counts[bisect_left(BOUNDS_NS, ns)] += 1
        self.sum_ns += ns
