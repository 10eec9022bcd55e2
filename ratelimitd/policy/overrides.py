"""Overrides as a policy states them. The descriptions become the JSON Schema: they are for operators."""

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ratelimitd.core.tiers import TIERS, Tier
from ratelimitd.policy.field_types import Address, ContextKey, HeaderName, UserId, Value
from ratelimitd.policy.limits import LimitingPart, limit_fields, with_fields
from ratelimitd.policy.part import TOO_MANY, Part

MAX_OVERRIDES = 20_000


def _description(tier: Tier) -> str:
    replaced = f"the limit of tiers.{tier.name}"
    return f"Replaces {replaced} and of routes." if tier.route_may_limit else f"Replaces {replaced}."


@with_fields(
    limit_fields({name: _description(tier) for name, tier in TIERS.items() if tier.override_may_limit})
)
class _OverrideBase(LimitingPart):
    pass


class OverrideEntry(_OverrideBase):
    """Rules for some requests, in place of the limits of tiers and routes."""

    exempt: bool = Field(default=False, description="Requests take no tokens and are always allowed.")
    blocked: bool = Field(default=False, description="Every request is denied with status 403.")
    shadow: bool = Field(
        default=False, description="Counts the requests that would be denied, and denies none."
    )


class OverridesEntry(Part):
    """Overrides. Those by user or address win over those by header, and these over those by context."""

    users: dict[UserId, OverrideEntry] = Field(default_factory=dict, description="By user id.")
    addresses: dict[Address, OverrideEntry] = Field(
        default_factory=dict,
        description="By address, for requests without a user id. An IPv6 address stands for its /64.",
    )
    headers: dict[HeaderName, dict[Value, OverrideEntry]] = Field(
        default_factory=dict,
        description="By the lower-case name of a header that your Envoy sets, then by its value.",
    )
    context: dict[ContextKey, dict[Value, OverrideEntry]] = Field(
        default_factory=dict, description="By a key of a route's context_extensions, then by its value."
    )

    @model_validator(mode="before")
    @classmethod
    def _few_enough(cls, data: Any) -> Any:
        """Rejects too many before any of them is validated, as `at_most` does for lists."""
        count = sum(map(len, _groups(data)))
        if count > MAX_OVERRIDES:
            reason = f"must be at most {MAX_OVERRIDES} together, got {count}"
            raise PydanticCustomError(TOO_MANY, "{reason}", {"reason": reason})
        return data

    def items(self) -> Iterator[tuple[str, OverrideEntry]]:
        """Yields every override with its path in the policy."""
        for kind, by_name in (("users", self.users), ("addresses", self.addresses)):
            for name, override in by_name.items():
                yield f"overrides.{kind}.{name}", override
        for kind, by_key in (("headers", self.headers), ("context", self.context)):
            for key, by_value in by_key.items():
                for value, override in by_value.items():
                    yield f"overrides.{kind}.{key}.{value}", override


def _groups(overrides: Any) -> Iterator[dict[Any, Any]]:
    """Yields each group of overrides in plain data of any shape."""
    for kind, values in overrides.items() if isinstance(overrides, dict) else ():
        if isinstance(values, dict):
            nested = values.values() if kind in {"headers", "context"} else (values,)
            yield from (group for group in nested if isinstance(group, dict))
