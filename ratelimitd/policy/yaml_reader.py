"""Reads YAML into plain data, event by event, so that no nesting, alias or tag can multiply what is written.

A key is its text as written. An unquoted value is null, true, false, a number or text; what YAML 1.1 takes
for a date, an octal or a sexagesimal number stays text. Tags and aliases are refused.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import yaml

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.location import Location, path_of

MAX_DEPTH = 32
"""Levels of nesting. A policy needs seven."""

TOO_DEEP = Problem("", f"must be nested at most {MAX_DEPTH} deep")

MAX_DIGITS = 400
"""A longer number stays text: Python would refuse to read it, or read infinity."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {"": None, "~": None, "null": None} | {
    word: word in {"true", "yes", "on"} for word in ("true", "yes", "on", "false", "no", "off")
}
_DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_WHOLE = re.compile(rf"[-+]?{_DIGITS}")
_FRACTION = re.compile(rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def yaml_data(text: str) -> Any:
    """Returns the data of the only document in a text. Raises PolicyError."""
    reader = _YamlReader()
    reader.read(text)
    if reader.problems:
        raise PolicyError(*reader.problems)
    return reader.root


def yaml_lines(text: str) -> dict[str, int]:
    """Returns the line of every key and list item in a text, by its path, up to where reading fails.

    Lines count from 1. Of a repeated key the first line counts. JSON is read as YAML.
    """
    reader = _YamlReader(lines={})
    with suppress(PolicyError):
        reader.read(text)
    return reader.lines or {}


@dataclass(slots=True)
class _Open:
    """A list or dict that is being read, and the index or key of the value that comes next or is read now."""

    into: Any
    at: int | str | None = None


class _YamlReader:
    """Builds the data of one document. With `lines`, it also notes the line of each path: that takes time."""

    def __init__(self, lines: dict[str, int] | None = None) -> None:
        self.root: Any = None
        self.problems: list[Problem] = []
        self.lines = lines
        self._open: list[_Open] = []
        self._documents = 0

    def read(self, text: str) -> None:
        """Reads a text. Raises PolicyError where the rest of the text has no meaning."""
        try:
            for event in yaml.parse(text, Loader=_LOADER):
                self.feed(event)
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # PyYAML's Python loader raises the last two for some escapes.
            raise PolicyError(Problem("", f"must be JSON or YAML; {_yaml_reason(error)}")) from error

    def feed(self, event: Any) -> None:
        """Takes the next event."""
        if isinstance(event, yaml.NodeEvent):
            top = self._open[-1] if self._open else None
            if top is not None and isinstance(top.into, dict) and top.at is None:
                self._key(top, event)
            else:
                self._value(top, event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._end_value()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise PolicyError(Problem("", f"must be one document; {_line(event)} begins another"))

    def _key(self, top: _Open, event: Any) -> None:
        if not isinstance(event, yaml.ScalarEvent):
            raise PolicyError(
                Problem("", f"must have text for each key; {_line(event)} has a list or object")
            )
        self._refuse_tag(event)
        top.at = event.value
        if event.value in top.into:
            reason = f"must be given once, not again on {_line(event)}"
            self.problems.append(Problem(path_of(self._location()), reason))
        self._note_line(event)

    def _value(self, top: _Open | None, event: Any) -> None:
        if top is not None and isinstance(top.into, list):
            top.at = len(top.into)
            self._note_line(event)
        value: Any = None
        if isinstance(event, yaml.AliasEvent):
            self._problem(event, f"must have no alias, got *{event.anchor}: repeat the value instead")
        else:
            self._refuse_tag(event)
        if isinstance(event, yaml.ScalarEvent):
            value = event.value if event.style or event.tag is not None else plain_scalar(event.value)
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(self._open) == MAX_DEPTH:
                raise PolicyError(TOO_DEEP)
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        self._put(top, value)
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append(_Open(value))
        else:
            self._end_value()

    def _put(self, top: _Open | None, value: Any) -> None:
        if top is None:
            self.root = value
        elif isinstance(top.into, list):
            top.into.append(value)
        else:
            top.into[top.at] = value

    def _end_value(self) -> None:
        if self._open:
            self._open[-1].at = None

    def _location(self) -> Location:
        return tuple(one.at for one in self._open if one.at is not None)

    def _note_line(self, event: Any) -> None:
        if self.lines is not None:
            self.lines.setdefault(path_of(self._location()), event.start_mark.line + 1)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._problem(event, f"must have no tag, got {event.tag:.60}")

    def _problem(self, event: Any, reason: str) -> None:
        self.problems.append(Problem(path_of(self._location()), f"{reason} ({_line(event)})"))


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        reason = _lower_first(error.problem or "not valid YAML")
        return f"line {mark.line + 1}, column {mark.column + 1}: {reason}"
    return _lower_first(str(getattr(error, "reason", error)).splitlines()[0])


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def plain_scalar(text: str) -> Any:
    """Returns the value of an unquoted text of YAML."""
    if text.lower() in _WORDS and text in {text.lower(), text.upper(), text.capitalize()}:
        return _WORDS[text.lower()]
    if text[0] not in "+-.0123456789" or len(text) > MAX_DIGITS:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    if _FRACTION.fullmatch(text):
        return float(text)
    return text
