"""Counts the calls that decisions make to the store. The batcher counts; metrics and usage read."""

from collections import Counter

from ratelimitd.telemetry.histogram import Histogram

REASONS = ("timeout", "away", "connection", "refused", "overload", "reply", "other")
"""Values of `StoreError.reason`: why the store made no decision."""


class StoreCalls:
    """Counts since the start of the process.

    Attributes:
        seconds: the durations of the calls that returned outcomes.
        batch_sizes: calls that were sent, by their number of decisions.
        errors: decisions that got no outcome, by the `reason` of the StoreError.
    """

    def __init__(self) -> None:
        self.seconds = Histogram()
        self.batch_sizes: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()

    def refused(self) -> None:
        """Counts a request that is refused without a decision, because it came too late."""
        self.errors["overload"] += 1
