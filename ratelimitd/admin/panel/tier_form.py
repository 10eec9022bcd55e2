"""The numbers of the tiers as a form. Changing them leaves the rest of the policy as it is."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from ratelimitd.core.tiers import TIERS, TierName
from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.flat_form import Policy, full_form
from ratelimitd.policy.limits import TierEntry
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.plain_data import plain_data
from ratelimitd.policy.text import parse
from ratelimitd.policy.yaml_reader import plain_scalar
from ratelimitd.rate_text import per_second

NUMBERS = ("capacity", "rate")


@dataclass(frozen=True, slots=True)
class TierField:
    """A tier as the form shows it. The keys of `numbers` and `problems` are `capacity` and `rate`."""

    name: str
    label: str
    about: str
    off: bool
    shadow: bool
    on_store_error: str | None
    numbers: Mapping[str, str]
    problems: Mapping[str, list[str]]


def tier_fields(
    policy: Policy, typed: Mapping[str, str], problems: Iterable[Problem] = ()
) -> list[TierField]:
    """Returns the fields of the form for a policy. Values that were typed replace its numbers."""
    reasons: dict[str | None, list[str]] = {}
    for problem in problems:
        reasons.setdefault(field_of(problem), []).append(problem.reason)
    fields = []
    for name, tier in full_form(policy).tiers.items():
        numbers = _numbers(tier)
        fields.append(
            TierField(
                name=name,
                label=TIERS[name].label,
                about=TIERS[name].meaning,
                off=tier is None,
                shadow=tier is not None and tier.shadow,
                on_store_error=None if tier is None else tier.on_store_error,
                numbers={one: typed.get(f"{name}_{one}", numbers[one]) for one in NUMBERS},
                problems={one: reasons.get(f"{name}_{one}", []) for one in NUMBERS},
            )
        )
    return fields


def _numbers(tier: TierEntry | None) -> dict[str, str]:
    if tier is None:
        return {"capacity": "", "rate": ""}
    return {"capacity": str(tier.capacity), "rate": tier.rate or _exact(tier.tokens_per_s)}


def _exact(value: float) -> str:
    """Returns all digits of a number, because a form that is sent unchanged must change nothing."""
    return f"{Decimal(repr(value)):f}".removesuffix(".0")


def field_of(problem: Problem) -> str | None:
    """Returns the name of the field that a problem is about, or None for a problem elsewhere."""
    for name in TierName:
        for one, paths in (("capacity", ("capacity",)), ("rate", ("rate", "refill_rate"))):
            if problem.path == f"{name}_{one}" or problem.path in {f"tiers.{name}.{path}" for path in paths}:
                return f"{name}_{one}"
    return None


def with_numbers(text: str, typed: Mapping[str, str]) -> str:
    """Returns the text of a policy with the numbers that were typed. Raises PolicyError with their paths.

    A flat policy stays flat. A tier that is off has no numbers, and a number that was not typed stays.
    """
    data = plain_data(text)
    if "tiers" not in data:
        return _checked(json.dumps(data | _flat(typed)))
    for name in TierName:
        tier = data["tiers"].get(name)
        if isinstance(tier, dict):
            data["tiers"][name] = _full(tier, typed, name)
    return normal_text(parse(json.dumps(data)))


def _checked(text: str) -> str:
    parse(text)
    return text


def _flat(typed: Mapping[str, str]) -> dict[str, Any]:
    fields = [f"{name}_{one}" for name in TierName for one in NUMBERS]
    return {field: _per_second(field, typed[field]) for field in fields if field in typed}


def _per_second(field: str, text: str) -> Any:
    """Converts a rate with a unit, such as 100/min: a flat policy holds tokens per second only."""
    if "/" not in text:
        return plain_scalar(text.strip())
    try:
        return per_second(text.strip())
    except ValueError as error:
        raise PolicyError(Problem(field, f"{error}, got {text.strip()!r:.60}")) from error


def _full(tier: dict[str, Any], typed: Mapping[str, str], name: str) -> dict[str, Any]:
    changed = dict(tier)
    if f"{name}_capacity" in typed:
        changed["capacity"] = plain_scalar(typed[f"{name}_capacity"].strip())
    rate = typed.get(f"{name}_rate", "").strip()
    if f"{name}_rate" in typed and rate != _numbers(TierEntry.model_validate(tier))["rate"]:
        changed.pop("rate", None)
        changed.pop("refill_rate", None)
        value = plain_scalar(rate)
        changed["rate" if isinstance(value, str) else "refill_rate"] = value
    return changed
