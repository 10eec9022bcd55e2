"""Figures by case and round. They are compared round by round, so slow minutes cancel out."""

from collections.abc import Mapping, Sequence
from statistics import median

from bench.measure import Sample
from bench.workloads import Case

Results = Mapping[Case, Sequence[Sample]]
"""Samples by case, one per round, in the order of the rounds."""


def column(results: Results, case: Case, name: str) -> list[float]:
    """One figure of a case, by round. Empty if the case was not measured or the figure is unknown."""
    figures = [getattr(sample, name) for sample in results.get(case, ())]
    return [figure for figure in figures if figure is not None]


def ratios(values: Sequence[float], floors: Sequence[float]) -> list[float]:
    """Ratio to the floor, by round. Empty without a floor or if one is zero."""
    if len(values) != len(floors) or not all(floors):
        return []
    return [value / floor for value, floor in zip(values, floors, strict=True)]


def excess(values: Sequence[float], floors: Sequence[float], factor: float = 1.0) -> list[float]:
    """Difference from `factor` times the floor, by round. Empty without a floor."""
    if len(values) != len(floors):
        return []
    return [value - factor * floor for value, floor in zip(values, floors, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, minimum and maximum."""
    return median(values), min(values), max(values)
