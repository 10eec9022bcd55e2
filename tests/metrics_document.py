"""The metrics in docs/metrics.md, and the metrics in a text, in the same form."""

import re
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

DOCUMENT = Path(__file__).parents[1] / "docs/metrics.md"


class MetricDescription(NamedTuple):
    """A metric: the name of a counter ends with `_total`."""

    name: str
    type: str
    labels: frozenset[str]


def documented(section: str) -> set[MetricDescription]:
    """Returns the metrics in the tables of a section of the document."""
    _, _, text = DOCUMENT.read_text().partition(f"\n## {section}\n")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", text.partition("\n## ")[0], re.MULTILINE)
    return {
        MetricDescription(name, kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in rows
    }


def described(text: str) -> set[MetricDescription]:
    """Returns the metrics in a text for Prometheus. A metric without samples has no labels."""
    return {
        MetricDescription(
            f"{family.name}_total" if family.type == "counter" else family.name,
            family.type,
            frozenset(label for sample in family.samples for label in sample.labels) - {"le"},
        )
        for family in text_string_to_metric_families(text)
    }
