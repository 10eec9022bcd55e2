"""Estimates quantiles of durations from a histogram."""

from collections.abc import Sequence

from ratelimitd.telemetry.histogram import BOUNDS_NS

_NS = 1_000_000_000


def quantile_s(counts: Sequence[int], quantile: float) -> float | None:
    """Returns a quantile in seconds, None without durations.

    It interpolates linearly within a bucket, as Prometheus does. A quantile above the highest bound is that
    bound.

    Args:
        counts: durations in each bucket of a telemetry.histogram.Histogram.
        quantile: between 0 and 1.
    """
    rank = sum(counts) * quantile
    if not rank:
        return None
    lower_ns = 0
    for count, upper_ns in zip(counts, BOUNDS_NS, strict=False):
        if count and rank <= count:
            return (lower_ns + (upper_ns - lower_ns) * rank / count) / _NS
        rank -= count
        lower_ns = upper_ns
    return lower_ns / _NS
