"""Finds the line of each problem of a policy text, so that the editor can show it there."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ratelimitd.errors import Problem
from ratelimitd.policy.yaml_reader import yaml_lines

_LINE = re.compile(r"\bline ([0-9]+)")


class PlacedProblem(NamedTuple):
    """A problem and its line, counted from 1; None when the line is unknown."""

    path: str
    reason: str
    line: int | None


def placed(text: str, problems: Iterable[Problem]) -> list[PlacedProblem]:
    """Returns the problems of a text with their lines. A missing key gets the line of its parent."""
    problems = list(problems)
    lines = yaml_lines(text) if problems else {}
    return [PlacedProblem(problem.path, problem.reason, _line(problem, lines)) for problem in problems]


def _line(problem: Problem, lines: dict[str, int]) -> int | None:
    if not problem.path:  # the text could not be parsed, and the reason may name the line
        found = _LINE.search(problem.reason)
        return int(found[1]) if found else None
    path = problem.path
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)
