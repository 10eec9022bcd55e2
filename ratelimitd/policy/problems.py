"""Validates plain data as a policy, and words every problem so that it says what would be valid."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.consistency import duplicate_identities, unpayable_costs
from ratelimitd.policy.document import PolicyDocument
from ratelimitd.policy.flat_form import FlatPolicy, Policy
from ratelimitd.policy.limits import LimitEntry, TierEntry, TiersEntry
from ratelimitd.policy.location import Location, path_of
from ratelimitd.policy.overrides import OverrideEntry, OverridesEntry
from ratelimitd.policy.part import INCONSISTENT, ONE_REQUIRED, TOO_MANY, Part
from ratelimitd.policy.routes import MAX_ROUTES, RouteEntry
from ratelimitd.pydantic_text import reason_of

MAX_PROBLEMS = 50
"""More problems than this come from a faulty generator of policies, not from mistakes in a text."""

_SENTENCES = {
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "bool_type": "must be true or false",
    "literal_error": "must be {expected}",
    "tuple_type": "must be a list",
    "too_short": "must have {min_length} or more",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "missing": "must be given",
}
_SHOWN_CHARACTERS = 60
_WITHOUT_VALUE = {"missing", "too_short", ONE_REQUIRED, INCONSISTENT, TOO_MANY}


def validated(data: Any) -> Policy:
    """Returns the policy in plain data. Raises PolicyError with every problem."""
    if not isinstance(data, dict):
        raise PolicyError(Problem("", f"must be an object with the keys of a policy, got {_shown(data)}"))
    full = any(name in data for name in PolicyDocument.model_fields)
    if not full and not any(name in data for name in FlatPolicy.model_fields):
        names = ", ".join(_keys(FlatPolicy))
        raise PolicyError(Problem("", f"must have tiers, or all six of {names}"))
    try:
        return PolicyDocument.model_validate(data) if full else FlatPolicy.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        problems = [_problem(one, full=full) for one in errors]
        if full and not any(one["type"] == INCONSISTENT for one in errors):
            problems += _inconsistencies(data)
        raise PolicyError(*bounded(problems)) from None  # the text of pydantic's error repeats the policy


def bounded(problems: Sequence[Problem]) -> list[Problem]:
    """Returns the first MAX_PROBLEMS problems, and one that counts the rest."""
    more = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], *([Problem("", f"and {more} more")] if more > 0 else [])]


def _inconsistencies(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Finds problems between the valid parts. Pydantic looks for them only when every part is valid."""
    tiers = _valid(TiersEntry, data.get("tiers"))
    routes = data.get("routes")
    if tiers is not None and isinstance(routes, list) and len(routes) <= MAX_ROUTES:
        found = ((at, _valid(RouteEntry, route)) for at, route in enumerate(routes))
        good = {at: route for at, route in found if route is not None}
        for location, reason in unpayable_costs(tiers, good, shadow=data.get("shadow") is True):
            yield Problem(path_of(location), reason)
    overrides = data.get("overrides")
    if isinstance(overrides, dict):
        users, addresses = (overrides.get(kind) for kind in ("users", "addresses"))
        for location, reason in duplicate_identities(
            users if isinstance(users, dict) else (), addresses if isinstance(addresses, dict) else ()
        ):
            yield Problem(path_of(location), reason)


P = TypeVar("P", bound=Part)


def _valid(part: type[P], data: Any) -> P | None:
    try:
        return part.model_validate(data)
    except ValidationError:
        return None


def _problem(error: ErrorDetails, *, full: bool) -> Problem:
    location: Location = error["loc"]
    if location[-1:] == ("[key]",):
        location = location[:-1]
    kind = error["type"]
    context = {name: _number(value) for name, value in error.get("ctx", {}).items()}
    if kind == "extra_forbidden":
        names = ", ".join(_keys(_part_at(location[:-1], full=full)))
        return Problem(path_of(location), f"unknown key; the keys are {names}")
    template = _SENTENCES.get(kind)
    reason = reason_of(error["msg"]) if template is None else template.format(**context)
    if kind == "missing" and location[0] == "tiers" and len(location) == 2:  # noqa: PLR2004 - tiers.NAME
        reason += "; write `off` to switch it off"
    got = "" if kind in _WITHOUT_VALUE else f", got {_shown(error['input'])}"
    return Problem(path_of(location), reason + got)


def _part_at(location: Location, *, full: bool) -> type[BaseModel]:
    part: type[BaseModel] = LimitEntry
    match location:
        case ():
            part = PolicyDocument if full else FlatPolicy
        case ("tiers",):
            part = TiersEntry
        case ("tiers", _):
            part = TierEntry
        case ("routes", _):
            part = RouteEntry
        case ("overrides",):
            part = OverridesEntry
        case ("overrides", "users" | "addresses", _) | ("overrides", "headers" | "context", _, _):
            part = OverrideEntry
    return part


def _keys(part: type[BaseModel]) -> Iterator[str]:
    for name, field in part.model_fields.items():
        yield field.alias or name


def _number(value: Any) -> Any:
    """Returns a bound without an exponent: 0.000001, not 1e-06."""
    return f"{value:f}".rstrip("0").rstrip(".") if isinstance(value, float) else value


def _shown(value: Any) -> str:
    """Returns a short text for a value from the policy."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    shown = repr(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."
