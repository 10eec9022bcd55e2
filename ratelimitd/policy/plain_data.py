"""Reads JSON or YAML text into plain data: dicts, lists, text, numbers, true, false and null.

A repeated key is rejected, since only one of its values could hold. Deep nesting cannot end the process:
Python's recursion limit stops the JSON reader, and the YAML reader does not recurse.
"""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.location import Location, path_of
from ratelimitd.policy.yaml_reader import TOO_DEEP, yaml_data


def plain_data(text: str) -> Any:
    """Returns the data in a text that UTF-8 can encode. Raises PolicyError and nothing else."""
    try:
        if not text.lstrip().startswith("{"):
            return yaml_data(text)
        try:
            return _from_json(text)
        except ValueError as error:
            try:
                return yaml_data(text)  # YAML may begin with a brace as well
            except PolicyError as yaml_error:
                raise _json_error(error) or yaml_error from error
    except RecursionError as error:
        raise PolicyError(TOO_DEEP) from error


def _json_error(error: ValueError) -> PolicyError | None:
    if not isinstance(error, json.JSONDecodeError):
        return None
    where = f"line {error.lineno}, column {error.colno}"
    return PolicyError(
        Problem("", f"must be JSON or YAML; as JSON, {where}: {error.msg[:1].lower()}{error.msg[1:]}")
    )


def _from_json(text: str) -> Any:
    repeating: list[tuple[dict[str, Any], list[str]]] = []

    def as_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeating.append((found, [key for key, count in counts.items() if count > 1]))
        return found

    data = json.loads(text, object_pairs_hook=as_dict)
    if "\\u" in text:
        try:
            json.dumps(data, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise PolicyError(Problem("", "must be text without halves of surrogate pairs")) from error
    if repeating:
        locations = {id(value): location for location, value in _walk(data)}
        raise PolicyError(
            *(
                Problem(path_of((*locations[id(found)], key)), "must be given once, not twice")
                for found, keys in repeating
                if id(found) in locations
                for key in keys
            )
        )
    return data


def _walk(data: Any) -> Iterator[tuple[Location, Any]]:
    waiting: list[tuple[Location, Any]] = [((), data)]
    while waiting:
        location, value = waiting.pop()
        yield location, value
        if isinstance(value, dict):
            waiting += [((*location, key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [((*location, at), inner) for at, inner in enumerate(value)]
