"""A policy -> YAML in which everything has one spelling, so two texts differ where their meanings do.

Defaults are left out. A rate is a number per second, or where that is no short one, a whole number of tokens
a minute, an hour or a day. Where order means nothing, names are sorted.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ratelimitd.policy.document import (
    FlatPolicy,
    LimitEntry,
    OverrideEntry,
    PolicyDocument,
    RouteEntry,
    full_form,
)
from ratelimitd.policy.field_types import MAX_TOKENS, UNIT_S, key_of_address
from ratelimitd.policy.yaml_reader import plain_scalar

_INDENT = "  "
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_/.*+@-]*|[0-9]+/[a-z]+")


def normal_text(policy: FlatPolicy | PolicyDocument) -> str:
    """The YAML of a policy of either form. parse() reads the same policy from it."""
    return "\n".join(_lines(_document(full_form(policy)))) + "\n"


class _Flow(dict[str, Any]):
    """What is written on one line."""


def _document(policy: PolicyDocument) -> dict[str, Any]:
    overrides = policy.overrides
    found = {
        "users": _overrides(overrides.users),
        "addresses": _overrides({_address(name): one for name, one in overrides.addresses.items()}),
        # Among headers, and among context keys, the first with an override wins: their order means something.
        "headers": {name: _overrides(values) for name, values in overrides.headers.items() if values},
        "context": {name: _overrides(values) for name, values in overrides.context.items() if values},
    }
    return {
        "tiers": {name.value: _OFF if tier is None else _limit(tier) for name, tier in policy.tiers.items()},
        **_said(policy, "shadow"),
        **_said_of({"routes": [_route(route) for route in policy.routes]}),
        **_said_of({"overrides": _said_of(found)}),
    }


def _said_of(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _said(part: Any, *names: str) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    fields = type(part).model_fields
    return {name: value for name in names if (value := getattr(part, name)) != fields[name].default}


def _limit(limit: LimitEntry) -> _Flow:
    extra = _said(limit, *(name for name in ("shadow", "on_store_error") if name in type(limit).model_fields))
    return _Flow(capacity=limit.capacity, **_rate(limit.tokens_per_s), **extra)


def _rate(per_s: float) -> dict[str, Any]:
    if float(f"{per_s:.6g}") != per_s:
        for unit in ("min", "h", "day"):
            tokens = round(per_s * UNIT_S[unit])
            if tokens / UNIT_S[unit] == per_s and tokens <= MAX_TOKENS:
                return {"rate": f"{tokens}/{unit}"}
    return {"refill_rate": int(per_s) if per_s.is_integer() else per_s}


def _route(route: RouteEntry) -> dict[str, Any]:
    found: dict[str, Any] = {"path": route.path}
    if route.methods is not None:
        found["methods"] = sorted(set(route.methods))
    if route.api not in {None, route.path}:
        found["api"] = route.api
    found |= _said(route, "cost")
    if route.user_api is not None:
        found["user_api"] = _limit(route.user_api)
    return found | _said(route, "exempt", "shadow", "on_store_error")


def _overrides(overrides: Mapping[str, OverrideEntry]) -> dict[str, Any]:
    return {name: _override(one) for name, one in sorted(overrides.items())}


def _override(override: OverrideEntry) -> dict[str, Any]:
    limits = {"user": override.user, "user_api": override.user_api}
    found: dict[str, Any] = {name: _limit(limit) for name, limit in limits.items() if limit is not None}
    return found | _said(override, "exempt", "blocked", "shadow") or _Flow()


def _address(text: str) -> str:
    return unquote(key_of_address(text) or text).removeprefix("ip=")


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and not isinstance(value, _Flow):
            yield f"{_word(name)}:"
            yield from (_INDENT + line for line in _lines(value))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{_word(name)}:"
            for item in value:
                first, *rest = _lines(item)
                yield f"{_INDENT}- {first}"
                yield from (_INDENT * 2 + line for line in rest)
        else:
            yield f"{_word(name)}: {_flow(value)}"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_word(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    if isinstance(value, str):
        return value if value is _OFF else _word(value)
    # No exponent: to many readers of YAML it makes a text.
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else json.dumps(value)


_OFF = "off"


def _word(text: str) -> str:
    """A text as YAML: bare where every reader of YAML sees the same text in it, else in double quotes."""
    if _BARE.fullmatch(text) and isinstance(plain_scalar(text), str):
        return text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
