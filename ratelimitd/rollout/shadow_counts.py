"""Counts the requests that parts of the policy in shadow would have denied."""

from collections import Counter
from functools import lru_cache

from ratelimitd.core.decision import Decision
from ratelimitd.core.ports import Observer
from ratelimitd.telemetry.label_names import LabelNames, without_user_id

MAX_NAMES = 100
"""Names with a total of their own."""

MAX_PATHS = 4096
"""Paths whose names are kept; the least recently used are dropped first."""


class ShadowCounts:
    """Counts by the path of the part in the policy's text.

    Attributes:
        counts: since they were last taken, by path.
        totals: since the start of the process, by label: the path without the user of an override.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        labels = LabelNames(MAX_NAMES)
        self._label = lru_cache(MAX_PATHS)(lambda path: labels.label(without_user_id(path)))

    def decided(self, decision: Decision) -> None:
        """Counts a decision that shadow would have changed; dry runs do not count."""
        if decision.shadow is not None and not decision.dry_run:
            self.counts[decision.shadow] += 1
            self.totals[self._label(decision.shadow)] += 1


_port: type[Observer] = ShadowCounts
