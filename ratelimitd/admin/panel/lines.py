"""On which line of a text a problem stands, so that it can be shown there. It may be unknown."""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from ratelimitd.errors import Problem
from ratelimitd.policy.location import Location, path_of
from ratelimitd.policy.yaml_reader import MAX_DEPTH

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LINE = re.compile(r"\bline ([0-9]+)")


class PlacedProblem(NamedTuple):
    """A problem and its line, which counts from 1; None when it is about the whole text."""

    path: str
    reason: str
    line: int | None


def placed(text: str, problems: Iterable[Problem]) -> list[PlacedProblem]:
    """Problems of a text with their lines; of a key that is missing, the line of what should hold it."""
    problems = list(problems)
    lines = _lines(text) if problems else {}
    return [PlacedProblem(problem.path, problem.reason, _line(problem, lines)) for problem in problems]


def _line(problem: Problem, lines: dict[str, int]) -> int | None:
    if not problem.path:  # no policy could be read from the text; then the reason says where
        found = _LINE.search(problem.reason)
        return int(found[1]) if found else None
    path = problem.path
    while path and path not in lines:
        path = path[: max(path.rfind("."), path.rfind("["), 0)]
    return lines.get(path)


@dataclass(slots=True)
class _Open:
    """A list or object that is being read: where it stands, and what of it was read last."""

    location: Location
    is_list: bool
    last: int | str = -1
    has_key: bool = False


def _lines(text: str) -> dict[str, int]:
    """The line of everything in a text, by its path, as far as it can be read. JSON is YAML too."""
    lines: dict[str, int] = {}
    with suppress(yaml.YAMLError, ValueError, OverflowError):  # what was found until then holds
        _read(text, lines)
    return lines


def _read(text: str, lines: dict[str, int]) -> None:
    around: list[_Open] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionEndEvent):
            around.pop()
        if not isinstance(event, yaml.NodeEvent) or event.start_mark is None:  # each that is read has one
            continue
        location: Location = ()
        if around:
            top = around[-1]
            is_value = top.is_list or top.has_key
            if top.is_list:
                top.last = int(top.last) + 1
            elif not is_value:
                top.last = str(getattr(event, "value", ""))
            top.has_key = not is_value
            location = (*top.location, top.last)
            lines.setdefault(path_of(location), event.start_mark.line + 1)
        if isinstance(event, yaml.CollectionStartEvent):
            if len(around) == MAX_DEPTH:
                return
            around.append(_Open(location, isinstance(event, yaml.SequenceStartEvent)))
