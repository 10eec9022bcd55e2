"""Charts over time as geometry: plain functions from numbers to positions, without markup, store and clock.

`templates/charts.html` draws a Chart as SVG. Positions are in percent of the width and the height of a plot.
So a plot can have any size, and its text always has the same: only the lines are scaled.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ratelimitd.admin.panel.chart_axes import Axis, Label, round_ticks

MAX_ROWS = 60
"""Rows in the table of a chart. A row covers several steps when there are more."""

NOTHING = "\N{EN DASH}"
"""Stands for a value that is not known."""

FRESH = 3
"""Steps whose values may stand for now. The last two may not be complete, hence not known."""

CENTRE = 50.0

Value = float | None
Reduce = Callable[[Sequence[float]], float]


def mean(values: Sequence[float]) -> float:
    """Returns the average of the values of several steps."""
    return sum(values) / len(values)


def last(values: Sequence[float]) -> float:
    """Returns the newest value of several steps."""
    return values[-1]


@dataclass(frozen=True, slots=True)
class Line:
    """The values of a chart under one name: one for each step, None where nothing is known.

    Args:
        name: as the legend shows it.
        look: the class of its colour and dashes in the style sheet: one to five.
        values: one for each step.
        area: whether the area below is filled.
        total: what the summary says of the whole range. May be empty.
    """

    name: str
    look: str
    values: Sequence[Value]
    area: bool = False
    total: str = ""


class Path(NamedTuple):
    """A line as data of SVG paths in a square of 100 by 100. `latest` is the newest value as text."""

    name: str
    look: str
    stroke: str
    fill: str
    latest: str


class Row(NamedTuple):
    """A row of a chart's table, and the part of the plot that shows it as a tooltip."""

    at: float
    width: float
    time: str
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Chart:
    """All that a template needs to draw a chart.

    `about` is its text alternative. `empty` replaces the plot when no value is known, else it is empty.
    """

    id: str
    title: str
    ticks: list[Label]
    paths: list[Path]
    rows: list[Row]
    about: str
    empty: str


@dataclass(frozen=True, slots=True)
class Plot:
    """What a chart shows, before it is drawn.

    Args:
        id: the prefix of the chart's ids on the page.
        title: its heading.
        empty: what the page says when no value is known.
        lines: what it shows.
        text: formats a value, with its unit.
        tick: formats a value at the axis.
        reduce: makes one value of several steps.
        whole: whether the axis has whole numbers only.
        least: the axis reaches this value at least.
    """

    id: str
    title: str
    empty: str
    lines: Sequence[Line]
    text: Callable[[float], str]
    tick: Callable[[float], str]
    reduce: Reduce = mean
    whole: bool = False
    least: float = 0.0

    def chart(self, axis: Axis) -> Chart:
        """Returns the chart."""
        known = [value for line in self.lines for value in line.values if value is not None]
        marks = round_ticks(max([self.least, *known]), whole=self.whole)
        return Chart(
            id=self.id,
            title=self.title,
            ticks=[Label(100 - value / marks[-1] * 100, self.tick(value)) for value in marks],
            paths=[self._path(line, marks[-1]) for line in self.lines],
            rows=self._rows(axis) if known else [],
            about=" ".join(self._about(line) for line in self.lines),
            empty="" if known else self.empty,
        )

    def _path(self, line: Line, top: float) -> Path:
        newest = newest_of(line.values)
        stroke, fill = paths(line.values, top)
        latest = NOTHING if newest is None else self.text(newest)
        return Path(line.name, line.look, stroke, fill if line.area else "", latest)

    def _about(self, line: Line) -> str:
        highest = max((value for value in line.values if value is not None), default=None)
        if highest is None:
            return f"{line.name}: no data."
        newest = newest_of(line.values)
        latest = "no recent data" if newest is None else f"latest {self.text(newest)}"
        total = f", {line.total}" if line.total else ""
        return f"{line.name}: {latest}, highest {self.text(highest)}{total}."

    def _rows(self, axis: Axis) -> list[Row]:
        size = -(-axis.steps // MAX_ROWS) or 1
        return [
            Row(
                at=start / axis.steps * 100,
                width=(min(start + size, axis.steps) - start) / axis.steps * 100,
                time=axis.time(start),
                cells=[self._cell(line.values[start : start + size]) for line in self.lines],
            )
            for start in range(0, axis.steps, size)
        ]

    def _cell(self, values: Sequence[Value]) -> str:
        known = [value for value in values if value is not None]
        return self.text(self.reduce(known)) if known else NOTHING


def newest_of(values: Sequence[Value]) -> Value:
    """Returns the newest value, None if the last steps have none: an old value says nothing about now."""
    return next((value for value in reversed(values[-FRESH:]) if value is not None), None)


def paths(values: Sequence[Value], top: float) -> tuple[str, str]:
    """Returns the line and the area of values from 0 to `top` as data of SVG paths. Gaps stay open.

    A value is drawn in the middle of its step. One without neighbours is drawn as a dash.
    """
    strokes, fills = [], []
    for known, group in groupby(enumerate(values), lambda item: item[1] is not None):
        if not known:
            continue
        points = [((at + 0.5) / len(values) * 100, 100 - (value or 0.0) / top * 100) for at, value in group]
        line = "L".join(f"{x:.2f} {y:.1f}" for x, y in points)
        dot = "h1" if points[0][0] < CENTRE else "h-1"
        strokes.append(f"M{line}" + (dot if len(points) == 1 else ""))
        fills.append(f"M{points[0][0]:.2f} 100L{line}L{points[-1][0]:.2f} 100Z")
    return "".join(strokes), "".join(fills)
