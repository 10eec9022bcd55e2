"""Counts the requests that parts of the policy in shadow would have denied."""

from collections import Counter

from ratelimitd.core.decision import Decision
from ratelimitd.core.ports import Observer


class ShadowCounts:
    """Counts since they were last taken, by the path of the part in the policy's text."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def decided(self, decision: Decision) -> None:
        """Counts a decision that shadow would have changed; dry runs do not count."""
        if decision.shadow is not None and not decision.dry_run:
            self.counts[decision.shadow] += 1


_port: type[Observer] = ShadowCounts
