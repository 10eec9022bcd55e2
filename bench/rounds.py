"""Interleaved rounds: every cell once, then every cell again, so a busy minute of the machine hits all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.forms import Form
from bench.load import Sample, measure
from bench.stores import Store
from bench.works import Cell

Results = Mapping[Cell, Sequence[Sample]]
"""Samples by cell, one a round, in the order of rounds."""

_MOST_CALLS = 200_000


@dataclass(frozen=True)
class Pace:
    """How many rounds, about how long each load takes, and the calls of the loads that warm up."""

    times: int
    seconds: float
    first_calls: int


async def rounds(
    forms: Mapping[str, Form],
    cells: Sequence[Cell],
    store: Store,
    folder: Path,
    pace: Pace,
    *,
    tell: Callable[[str], None],
) -> Results:
    """Loads each cell once a round, after a load that warms up and tells how many calls fill the time.

    Every second round goes backwards, so no form always comes after the same other one.
    """
    await store.reset()
    calls = {}
    for cell in cells:
        first = max(pace.first_calls, 2 * cell.point.in_flight)
        rate = (await measure(forms[cell.form], cell, first, folder)).rate
        calls[cell] = min(_MOST_CALLS, max(first, int(rate * pace.seconds)))
    tell(f"warmed up; now {pace.times} rounds of {len(cells)} loads")
    results: dict[Cell, list[Sample]] = {cell: [] for cell in cells}
    for number in range(pace.times):
        await store.reset()
        for cell in cells if number % 2 == 0 else reversed(cells):
            results[cell].append(await measure(forms[cell.form], cell, calls[cell], folder))
        tell(f"round {number + 1} of {pace.times} is done")
    return results


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, least and most."""
    return median(values), min(values), max(values)


def column(results: Results, cell: Cell, name: str) -> list[float]:
    """One figure of a cell, round by round; empty when the cell was not loaded or the figure is unknown."""
    figures = [getattr(sample, name) for sample in results.get(cell, ())]
    return [figure for figure in figures if figure is not None]


def ratios(values: Sequence[float], floors: Sequence[float]) -> list[float]:
    """Round by round; empty where there is no floor, or one that is zero."""
    if len(values) != len(floors) or not all(floors):
        return []
    return [value / floor for value, floor in zip(values, floors, strict=True)]
