"""Tables as text, aligned for a terminal or in Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.figures import Results, column, ratios, spread
from bench.targets import ECHO_OF, UNLIMITED
from bench.workloads import Case, Entry, Workload


@dataclass(frozen=True)
class Table:
    """A title, column names, and rows with one cell per column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain(table: Table) -> str:
    """Renders a table with aligned columns."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.columns))]
    texts = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    head, *rows = (text.rstrip() for text in texts)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join((table.title, "", head, rule, *rows, ""))


def markdown(table: Table) -> str:
    """Renders a table in Markdown."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join((f"## {table.title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""))


def with_spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, minimum and maximum, such as `52 (50..57)`. A dash if there are no values."""
    if not values:
        return "-"
    middle, least, most = (f"{value:.{digits}f}" for value in spread(values))
    return middle if least == most else f"{middle} ({least}..{most})"


_COLUMNS = {
    Entry.DIRECT: {
        "decisions/s": "rate",
        "service us": "service_us",
        "/ echo": None,
        "store us": "store_us",
        "load us": "load_us",
    },
    Entry.ENVOY: {
        "requests/s": "rate",
        "/ no limit": None,
        "service us": "service_us",
        "Envoy us": "envoy_us",
        "service + Envoy us": "total_us",
        "store us": "store_us",
        "load us": "load_us",
    },
}
"""The columns of a table by entry point, with the field of Sample; None stands for the ratio to the floor."""

_LATENCY = {"mean us": "mean_us", "p99 us": "p99_us"}


def load_table(results: Results, entry: Entry) -> Table:
    """The table of an entry point, one row per case."""
    columns = _COLUMNS[entry] | _LATENCY
    rows = []
    for case in results:
        if case.entry is entry:
            figures = [
                with_spread(_floor_ratios(results, case), 2)
                if name is None
                else with_spread(column(results, case, name))
                for name in columns.values()
            ]
            denied = median(column(results, case, "denied"))
            rows.append([case.workload.value, str(case.concurrency), case.target, f"{denied:.0%}", *figures])
    title = "Direct gRPC load" if entry is Entry.DIRECT else "Load through Envoy"
    head = ["workload", "concurrency", "target", "denied", *columns]
    return Table(f"{title}: median (minimum..maximum)", head, rows)


def _floor_ratios(results: Results, case: Case) -> list[float]:
    """By round: service CPU over that of its echo; through Envoy, requests/s over those without a limit."""
    if case.entry is Entry.DIRECT:
        floor = replace(case, workload=Workload.MANY, target=ECHO_OF.get(case.target, ""))
        return ratios(column(results, case, "service_us"), column(results, floor, "service_us"))
    floor = replace(case, workload=Workload.MANY, target=UNLIMITED)
    return ratios(column(results, case, "rate"), column(results, floor, "rate"))
