"""Writes a policy as YAML in normal form, in which policies with the same meaning have the same text.

Defaults are omitted. A rate is a number per second; when that number is not short, the rate is a whole number
of tokens per minute, hour or day. Names are sorted wherever their order has no meaning.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from ratelimitd.core.tiers import TIERS
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.field_types import MAX_TOKENS, key_of_address
from ratelimitd.policy.flat_form import Policy, full_form
from ratelimitd.policy.limits import LimitEntry, LimitingPart, TiersEntry
from ratelimitd.policy.overrides import OverrideEntry
from ratelimitd.policy.routes import RouteEntry
from ratelimitd.policy.yaml_reader import plain_scalar
from ratelimitd.rate_text import UNIT_S

_INDENT = "  "
_BARE = re.compile(r"[A-Za-z/][A-Za-z0-9_/.*+@-]*|[0-9]+/[a-z]+")


def normal_text(policy: Policy) -> str:
    """Returns the normal form. `parse` reads the same policy from it."""
    return "\n".join(_lines(_document(full_form(policy)))) + "\n"


class _Flow(dict[str, Any]):
    """A dict that is written on one line."""


class _Off:
    """A tier that is off. It is written bare, unlike the text "off"."""


def _document(policy: PolicyDocument) -> dict[str, Any]:
    overrides = policy.overrides
    by_kind = {
        "users": _overrides(overrides.users),
        "addresses": _overrides({_address(name): one for name, one in overrides.addresses.items()}),
        # Among headers, and among context keys, the first with an override wins: their order has a meaning.
        "headers": {name: _overrides(values) for name, values in overrides.headers.items() if values},
        "context": {name: _overrides(values) for name, values in overrides.context.items() if values},
    }
    parts = {"routes": [_route(route) for route in policy.routes], "overrides": _not_empty(by_kind)}
    return {"tiers": _tiers(policy.tiers), **_not_default(policy, "shadow"), **_not_empty(parts)}


def _not_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}


def _not_default(part: Any, *names: str) -> dict[str, Any]:
    fields = type(part).model_fields
    return {name: value for name in names if (value := getattr(part, name)) != fields[name].default}


def _tiers(tiers: TiersEntry) -> dict[str, Any]:
    return {
        name.value: _Off() if tier is None else _limit(tier)
        for name, tier in tiers.items()
        if tier is not None or TIERS[name].required
    }


def _limit(limit: LimitEntry) -> _Flow:
    names = [name for name in ("shadow", "on_store_error", "lease") if name in type(limit).model_fields]
    return _Flow(capacity=limit.capacity, **_rate(limit.tokens_per_s), **_not_default(limit, *names))


def _limits(part: LimitingPart) -> dict[str, Any]:
    return {name.value: _limit(limit) for name, limit in part.limits().items()}


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
    found |= _not_default(route, "cost") | _limits(route)
    return found | _not_default(route, "exempt", "shadow", "on_store_error")


def _overrides(overrides: Mapping[str, OverrideEntry]) -> dict[str, Any]:
    return {name: _override(one) for name, one in sorted(overrides.items())}


def _override(override: OverrideEntry) -> dict[str, Any]:
    return _limits(override) | _not_default(override, "exempt", "blocked", "shadow") or _Flow()


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
    if isinstance(value, _Off):
        return "off"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_word(name)}: {_flow(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, str):
        return _word(value)
    if isinstance(value, Iterable):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    # Many YAML readers take a number with an exponent for text.
    return format(Decimal(repr(value)), "f") if isinstance(value, float) else json.dumps(value)


def _word(text: str) -> str:
    """Returns text as YAML: bare where every YAML reader sees the same text in it, else in double quotes."""
    if _BARE.fullmatch(text) and isinstance(plain_scalar(text), str):
        return text
    return '"' + "".join(_escaped(character) for character in text) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"
