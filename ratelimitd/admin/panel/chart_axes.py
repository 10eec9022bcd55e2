"""The axes of charts: round numbers, labels of a time axis in UTC, and marks of instants."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from ratelimitd.core.model import MICRO

MARK_WIDTH = 22.0
"""Space for the label of a mark, in percent of the width."""

FEW = 5
"""Labels of the time axis that fit on a phone."""

EDGE = 7.0
"""Times are not labelled this close to the edges of a plot, in percent of the width."""

_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0)
_INTERVALS = 3

MINUTE_S, DAY_S = 60, 86_400


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis that charts share.

    Args:
        start_us: beginning of the first step, in microseconds since the epoch.
        step_s: length of each step.
        steps: how many there are.
        label_s: the distance of two labels.
        with_day: whether rows of the table name the day, because the range may have several.
    """

    start_us: int
    step_s: int
    steps: int
    label_s: int
    with_day: bool

    @property
    def seconds(self) -> int:
        """The length of the axis."""
        return self.step_s * self.steps

    def position(self, at_us: float) -> float:
        """Returns the place of an instant in percent: 0 to 100 on the axis, less or more outside."""
        return (at_us - self.start_us) / (self.seconds * MICRO) * 100

    def time(self, step: int) -> str:
        """Returns the beginning of a step as text, in UTC."""
        at = datetime.fromtimestamp(self.start_us // MICRO + step * self.step_s, UTC)
        seconds = f":{at:%S}" if self.step_s < MINUTE_S else ""
        return (f"{at.day} {at:%b} " if self.with_day else "") + f"{at:%H:%M}{seconds}"


class Label(NamedTuple):
    """A text beside an axis. `minor`: it may be left out where space is short."""

    at: float
    text: str
    minor: bool = False


class Mark(NamedTuple):
    """An instant that a chart marks, and what happened then.

    `label` is empty where a newer one is near. It stands before the mark, or after it if `after`.
    """

    at: float
    label: str
    title: str
    after: bool


def round_ticks(highest: float, *, whole: bool = False) -> list[float]:
    """Returns two to three intervals between round numbers, from 0 to at least `highest`."""
    wanted = max(highest, 1e-9) / _INTERVALS if highest > 0 else 0.5
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(one * power for one in _ROUND if one * power >= wanted * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
    count = max(2, math.ceil(highest / step - 1e-9))
    return [one * step for one in range(count + 1)]


def time_labels(axis: Axis) -> list[Label]:
    """Returns the labels of the time axis: hours and minutes in UTC, or days where they are a day apart."""
    start_s = axis.start_us // MICRO
    first_s = -(-start_s // axis.label_s) * axis.label_s
    labels = []
    for at_s in range(first_s, start_s + axis.seconds, axis.label_s):
        at, place = datetime.fromtimestamp(at_s, UTC), axis.position(at_s * MICRO)
        if EDGE <= place <= 100 - EDGE:
            text = f"{at.day} {at:%b}" if axis.label_s >= DAY_S else f"{at:%H:%M}"
            labels.append(Label(place, text, minor=bool(at_s // axis.label_s % 2)))
    return labels if len(labels) > FEW else [one._replace(minor=False) for one in labels]


def marks_on(axis: Axis, instants: Sequence[tuple[int, str, str]]) -> list[Mark]:
    """Returns the marks of instants on the axis, newest first. Labels do not overlap; newer ones win.

    Args:
        axis: the time axis.
        instants: for each, microseconds since the epoch, a label and a title, in order of time.
    """
    marks, free_until = list[Mark](), math.inf
    for at_us, label, title in reversed(instants):
        if axis.start_us <= at_us <= axis.start_us + axis.seconds * MICRO:
            at = axis.position(at_us)
            after = at < MARK_WIDTH
            fits = (at + MARK_WIDTH if after else at) <= free_until
            if fits:
                free_until = at if after else at - MARK_WIDTH
            marks.append(Mark(at, label if fits else "", title, after))
    return marks
