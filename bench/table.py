"""Tables of text: aligned for a terminal, or Markdown to paste."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from bench.forms import FLOOR_OF, UNLIMITED
from bench.rounds import Results, column, ratios, spread
from bench.works import Cell, Way, Work


@dataclass(frozen=True)
class Table:
    """A title, the names of columns, and rows as long as these."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain(table: Table) -> str:
    """For a terminal: columns stand under each other."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.columns))]
    texts = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    head, *rows = (text.rstrip() for text in texts)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join((table.title, "", head, rule, *rows, ""))


def markdown(table: Table) -> str:
    """For a document."""
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join((f"### {table.title}", "", *(f"| {' | '.join(line)} |" for line in lines), ""))


def shown(values: Sequence[float], digits: int = 0) -> str:
    """Median and spread, such as `52 (50..57)`; a dash for what is not known."""
    if not values:
        return "-"
    middle, least, most = (f"{value:.{digits}f}" for value in spread(values))
    return middle if least == most else f"{middle} ({least}..{most})"


_COLUMNS = {
    Way.DIRECT: {
        "decisions/s": "rate",
        "service us": "service_us",
        "of floor": None,
        "store us": "store_us",
        "load us": "load_us",
    },
    Way.FRONT: {
        "requests/s": "rate",
        "of no limit": None,
        "service us": "service_us",
        "Envoy us": "envoy_us",
        "both us": "both_us",
        "store us": "store_us",
        "load us": "load_us",
    },
}
"""The columns of a way, each with the figure of a Sample that it shows; None is the ratio to the floor."""

_TIMES = {"mean us": "mean_us", "p99 us": "p99_us"}


def load_table(results: Results, way: Way) -> Table:
    """Every cell of a way, in the order in which they were loaded."""
    columns = _COLUMNS[way] | _TIMES
    rows = []
    for cell in results:
        if cell.way is way:
            figures = [
                shown(of_floor(results, cell), 2) if name is None else shown(column(results, cell, name))
                for name in columns.values()
            ]
            denied = median(column(results, cell, "denied"))
            rows.append([cell.work.value, str(cell.point), cell.form, f"{denied:.0%}", *figures])
    title = "Straight to the service" if way is Way.DIRECT else "Through Envoy"
    head = ["work", "at once", "form", "denied", *columns]
    return Table(f"{title}: medians (least..most)", head, rows)


def of_floor(results: Results, cell: Cell) -> list[float]:
    """By round: directly the CPU of the service over its echo's; through Envoy requests/s over no limit's."""
    if cell.way is Way.DIRECT:
        floor = replace(cell, work=Work.MANY, form=FLOOR_OF.get(cell.form, ""))
        return ratios(column(results, cell, "service_us"), column(results, floor, "service_us"))
    floor = replace(cell, work=Work.MANY, form=UNLIMITED)
    return ratios(column(results, cell, "rate"), column(results, floor, "rate"))
