"""Names as values of metric labels: printable, without user ids, of limited length and number."""

from collections import Counter
from collections.abc import Mapping

from ratelimitd.display import printable

OTHER = "other"
"""Stands for all names that are over the maximum."""

MAX_LENGTH = 100
"""Characters of a label. A longer name is cut, and ends with an ellipsis."""


class LabelNames:
    """Gives the names that it sees first a label of their own, and all later ones the label OTHER.

    A name keeps its label, so no count ever moves to another series.

    Args:
        max_names: how many names get a label of their own.
    """

    def __init__(self, max_names: int) -> None:
        self._max_names = max_names
        self._labels: dict[str, str] = {}

    def label(self, name: str) -> str:
        """Returns the label of a name."""
        label = self._labels.get(name)
        if label is None:
            if len(self._labels) >= self._max_names:
                return OTHER
            label = self._labels[name] = label_text(name)
        return label


def label_text(name: str) -> str:
    """Returns a name in a form that every reader of metrics takes: printable, and at most MAX_LENGTH long."""
    text = printable(name[: MAX_LENGTH + 1])
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 1]}…"


def without_user_id(path: str) -> str:
    """Returns the path of a part of the policy without the user of an override, since metrics are public."""
    return ".".join(path.split(".")[:2])


def without_user_ids(counts: Mapping[str, int]) -> dict[str, int]:
    """Merges the counts of all overrides of a kind."""
    merged: Counter[str] = Counter()
    for path, count in counts.items():
        merged[without_user_id(path)] += count
    return dict(merged)


def bounded(counts: Mapping[str, int], max_names: int) -> dict[str, int]:
    """Keeps the largest counts, and adds the others up under OTHER."""
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    kept = dict(ordered[:max_names])
    if rest := ordered[max_names:]:
        kept[OTHER] = kept.get(OTHER, 0) + sum(count for _, count in rest)
    return kept
