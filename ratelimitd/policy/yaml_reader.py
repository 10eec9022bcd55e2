"""YAML -> plain data, event by event: no depth, alias or tag can make more of a text than stands there.

A key is the text that was written. An unquoted value is null, true, false, a number or a text; what YAML 1.1
takes for a date, an octal or a sexagesimal number is a text, and tags and aliases are refused.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.location import Location, path_of

MAX_DEPTH = 32
"""A policy needs seven levels."""

TOO_DEEP = Problem("", f"must be nested at most {MAX_DEPTH} deep")

MAX_DIGITS = 400
"""A number with more of them is text: Python would refuse to read it, or read infinity."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_WORDS = {"": None, "~": None, "null": None} | {
    word: word in {"true", "yes", "on"} for word in ("true", "yes", "on", "false", "no", "off")
}
_DIGITS = r"(?:0|[1-9][0-9]*(?:_[0-9]+)*)"
_WHOLE = re.compile(rf"[-+]?{_DIGITS}")
_FRACTION = re.compile(rf"[-+]?(?:{_DIGITS}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


@dataclass(slots=True)
class _Open:
    """A list or dict that is being read, and the key that waits for its value."""

    into: Any
    key: str | None = None


def yaml_data(text: str) -> Any:
    """The data of the one document in a text. Raises PolicyError."""
    reader = _YamlReader()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # The last two are of the reader that is written in Python, for some escapes.
        raise PolicyError(Problem("", f"must be JSON or YAML; {_yaml_reason(error)}")) from error
    if reader.problems:
        raise PolicyError(*reader.problems)
    return reader.root


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {_lower(error.problem or 'is no YAML')}"
    return _lower(str(getattr(error, "reason", error)).splitlines()[0])


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


class _YamlReader:
    """Builds the data of one document, event by event."""

    def __init__(self) -> None:
        self.root: Any = None
        self.problems: list[Problem] = []
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """Takes the next event. Raises PolicyError where nothing that follows could be told."""
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_tag(event)
            top = self._open[-1] if self._open else None
            if top is not None and top.key is None and isinstance(top.into, dict):
                self._key(top, event)
            else:
                self._put(_scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._refuse_tag(event)
            if len(self._open) == MAX_DEPTH:
                raise PolicyError(TOO_DEEP)
            into: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
            self._put(into, event)
            self._open.append(_Open(into))
        elif isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._done()
        elif isinstance(event, yaml.AliasEvent):
            self._problem(event, f"must have no alias, got *{event.anchor}: write out what it stands for")
            self._put(None, event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise PolicyError(Problem("", f"must be one document; {_line(event)} begins another"))

    def _key(self, top: _Open, event: Any) -> None:
        top.key = event.value
        if event.value in top.into:
            self.problems.append(
                Problem(path_of(self._location()), f"must stand once, not again on {_line(event)}")
            )

    def _put(self, value: Any, event: Any = None) -> None:
        if not self._open:
            self.root = value
            return
        top = self._open[-1]
        if isinstance(top.into, list):
            top.into.append(value)
        elif top.key is None:
            raise PolicyError(
                Problem("", f"must have text for each key; {_line(event)} has a list or object")
            )
        else:
            top.into[top.key] = value
        if not isinstance(value, dict | list):
            self._done()

    def _done(self) -> None:
        """A value is complete: the dict around it waits for its next key."""
        if self._open:
            self._open[-1].key = None

    def _location(self) -> Location:
        parts = [len(one.into) if isinstance(one.into, list) else one.key for one in self._open]
        # A list holds what is being read in it already, but for a scalar.
        return tuple(
            part - 1 if isinstance(part, int) and at < len(parts) - 1 else part
            for at, part in enumerate(parts)
            if part is not None
        )

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            self._problem(event, f"must have no tag, got {event.tag:.60}")

    def _problem(self, event: Any, reason: str) -> None:
        self.problems.append(Problem(path_of(self._location()), f"{reason} ({_line(event)})"))


def _line(event: Any) -> str:
    return f"line {event.start_mark.line + 1}"


def _scalar(event: Any) -> Any:
    return event.value if event.style or event.tag is not None else plain_scalar(event.value)


def plain_scalar(text: str) -> Any:
    """What an unquoted text of YAML is."""
    if text.lower() in _WORDS and text in {text.lower(), text.upper(), text.capitalize()}:
        return _WORDS[text.lower()]
    if text[0] not in "+-.0123456789" or len(text) > MAX_DIGITS:
        return text
    if _WHOLE.fullmatch(text):
        return int(text)
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    if _FRACTION.fullmatch(text):
        return float(text)
    return text
