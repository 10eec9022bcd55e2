"""The table of a run: one row per drill and transport."""

from collections.abc import Sequence

from bench.table import Table
from drills.drill import Drill, Result
from drills.records import ALLOWED, DENIED, UNAVAILABLE, by_status, slowest_s, wrongly_denied

COLUMNS = (
    "fault",
    "transport",
    "load",
    "requests",
    "200",
    "429",
    "503",
    "no answer, other",
    "wrongly denied",
    "over-admitted",
    "slowest ms",
    "recovery s",
    "promises",
)


def row(drill: Drill, transport: str, result: Result) -> list[str]:
    """Returns the cells of a drill that ran."""
    statuses = by_status(result.records)
    known = [statuses[status] for status in (ALLOWED, DENIED, UNAVAILABLE)]
    others = statuses.total() - sum(known)
    kept = "; ".join(drill.broken(result)) or "kept"
    return [
        drill.fault,
        transport,
        result.load,
        str(len(result.records)),
        *map(str, known),
        str(others),
        str(wrongly_denied(result.records)),
        str(result.over_admitted),
        f"{slowest_s(result.records) * 1000:.0f}",
        "never" if result.recovery_s is None else f"{result.recovery_s:.2f}",
        f"{kept} ({result.note})" if result.note else kept,
    ]


def missing_row(drill: Drill, transport: str, reason: str) -> list[str]:
    """Returns the cells of a drill that did not run."""
    dashes = ["-"] * (len(COLUMNS) - 3)
    return [drill.fault, transport, *dashes, reason]


def table(rows: Sequence[Sequence[str]]) -> Table:
    """Returns the table of a run."""
    return Table("Drills", COLUMNS, rows)
