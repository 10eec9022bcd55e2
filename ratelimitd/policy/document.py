"""What a policy may say, in its two forms. A value of these classes is valid as a whole.

The descriptions become the JSON Schema, so they are written for operators.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from ratelimitd.core.identity import plain_key
from ratelimitd.core.tiers import TierName
from ratelimitd.policy.field_types import (
    Address,
    Api,
    Capacity,
    ContextKey,
    Cost,
    HeaderName,
    Maybe,
    Method,
    Pattern,
    Rate,
    RateText,
    StoreAnswer,
    UserId,
    Value,
    key_of_address,
    per_second,
)

MAX_ROUTES = 1000
MAX_OVERRIDES = 20_000
MAX_METHODS = 20

NEITHER = "neither"
"""The type of a problem with what was not given."""

TOGETHER = "together"
"""The type of a problem between parts that are each right."""

TOO_MANY = "too_many"
"""The type of a problem with a number of parts, whatever they are."""

_ABSENT: Any = object()


class Part(BaseModel):
    """A part of a policy."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class FlatPolicy(Part):
    """The flat form: each tier's capacity in tokens, and its rate in tokens per second."""

    global_capacity: Capacity
    global_rate: Rate
    user_capacity: Capacity
    user_rate: Rate
    user_api_capacity: Capacity
    user_api_rate: Rate


class LimitEntry(Part):
    """A bucket's size and its refill: capacity, and one of refill_rate and rate."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["refill_rate"]}, {"required": ["rate"]}]}
    )

    capacity: Capacity = Field(description="The most tokens that a bucket holds: the largest burst.")
    refill_rate: Maybe[Rate] = Field(None, description="Tokens that come back per second.")
    rate: Maybe[RateText] = Field(
        default_factory=lambda: _ABSENT,
        validate_default=True,
        description="Tokens that come back, as text: 100/min. The units are s, min, h and day.",
    )

    @field_validator("rate", mode="wrap")
    @classmethod
    def _one_of_both(cls, rate: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
        # A refill_rate that was refused is absent here: its own problem is enough.
        other = info.data.get("refill_rate", _ABSENT)
        if rate is _ABSENT:
            if other is None:
                raise PydanticCustomError(NEITHER, "must be given, or refill_rate")
            return None
        if other not in {None, _ABSENT}:
            raise ValueError("must not stand beside refill_rate; give one of them")
        return validate(rate)

    @property
    def tokens_per_s(self) -> float:
        """The refill in tokens per second, however it was written."""
        return per_second(self.rate) if self.refill_rate is None and self.rate else self.refill_rate or 0.0


class TierEntry(LimitEntry):
    """A tier's limit."""

    shadow: bool = Field(default=False, description="The tier counts what it would deny, and denies nothing.")
    on_store_error: Maybe[StoreAnswer] = Field(
        None, description="The tier's answer while the store is away. Absent, the setting's holds."
    )


def _off(value: Any) -> Any:
    if value is False or value == "off":
        return None
    if not isinstance(value, dict | TierEntry):
        raise ValueError("must be a limit, or off to switch the tier off")  # noqa: TRY004 - pydantic's way
    return value


MaybeOff = Annotated[
    TierEntry | None, BeforeValidator(_off, json_schema_input_type=TierEntry | Literal["off", False])
]


class TiersEntry(Part):
    """The three buckets that a request spends from. Each is a limit, or off."""

    global_: MaybeOff = Field(alias="global", description="One bucket for all requests.")
    user: MaybeOff = Field(description="One bucket for each user.")
    user_api: MaybeOff = Field(description="One bucket for each user on each API.")

    def items(self) -> tuple[tuple[TierName, TierEntry | None], ...]:
        """Each tier and its limit, None when it is off, widest first."""
        return (
            (TierName.GLOBAL, self.global_),
            (TierName.USER, self.user),
            (TierName.USER_API, self.user_api),
        )


def _no_longer(most: int) -> Callable[[Any], Any]:
    """Refuses a longer list before its parts are looked at: each mistake in them would take a kilobyte."""

    def checked(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            raise PydanticCustomError(TOO_MANY, "must have at most {most}", {"most": most})
        return value

    return checked


class RouteEntry(Part):
    """What holds for the requests that a path pattern matches. The first route that matches wins."""

    path: Pattern = Field(description="/api/search; * is one segment; ** at the end is any rest.")
    methods: Maybe[
        Annotated[
            tuple[Method, ...],
            Field(strict=False, min_length=1, max_length=MAX_METHODS),
            BeforeValidator(_no_longer(MAX_METHODS)),
        ]
    ] = Field(None, description="In upper case. Absent, any.")
    api: Maybe[Api] = Field(
        None, description="The name of the API's bucket. Absent, the path pattern itself."
    )
    cost: Cost = Field(1, description="Tokens that a request takes. 0 takes none, and is never denied.")
    user_api: Maybe[LimitEntry] = Field(None, description="In place of the limit of tiers.user_api.")
    exempt: bool = Field(default=False, description="Takes nothing, and is always allowed.")
    shadow: bool = Field(default=False, description="Counts what would be denied, and denies nothing.")
    on_store_error: Maybe[StoreAnswer] = Field(
        None, description="The answer while the store is away, in place of those of the tiers."
    )


class OverrideEntry(Part):
    """What holds for somebody in place of the limits of tiers and routes."""

    user: Maybe[LimitEntry] = Field(None, description="In place of the limit of tiers.user.")
    user_api: Maybe[LimitEntry] = Field(None, description="In place of every limit of user_api.")
    exempt: bool = Field(default=False, description="Takes nothing, and is always allowed.")
    blocked: bool = Field(default=False, description="Every request is refused with 403.")
    shadow: bool = Field(default=False, description="Counts what would be denied, and denies nothing.")


class OverridesEntry(Part):
    """Exceptions. Those for a user or an address come first, then those by header, then those by context."""

    users: dict[UserId, OverrideEntry] = Field(default_factory=dict, description="By user id.")
    addresses: dict[Address, OverrideEntry] = Field(
        default_factory=dict,
        description="By address, for requests without a user id. IPv6 counts by its /64.",
    )
    headers: dict[HeaderName, dict[Value, OverrideEntry]] = Field(
        default_factory=dict,
        description="By a header, in lower case, that your Envoy sets, then by its value.",
    )
    context: dict[ContextKey, dict[Value, OverrideEntry]] = Field(
        default_factory=dict, description="By a key of a route's context_extensions, then by its value."
    )

    @model_validator(mode="before")
    @classmethod
    def _few_enough(cls, data: Any) -> Any:
        """Before any of them is looked at, as for lists."""
        count = sum(map(len, _groups(data)))
        if count > MAX_OVERRIDES:
            reason = f"must be at most {MAX_OVERRIDES} together, got {count}"
            raise PydanticCustomError(TOO_MANY, "{reason}", {"reason": reason})
        return data


def _groups(overrides: Any) -> Iterator[dict[Any, Any]]:
    """Each dict of overrides in plain data that may be anything."""
    for kind, values in overrides.items() if isinstance(overrides, dict) else ():
        if isinstance(values, dict):
            nested = values.values() if kind in {"headers", "context"} else (values,)
            yield from (group for group in nested if isinstance(group, dict))


class PolicyDocument(Part):
    """The full form."""

    tiers: TiersEntry
    shadow: bool = Field(
        default=False, description="The whole policy counts what it would deny, and denies nothing."
    )
    routes: Annotated[
        tuple[RouteEntry, ...],
        Field(strict=False, max_length=MAX_ROUTES),
        BeforeValidator(_no_longer(MAX_ROUTES)),
    ] = Field((), description="In order: the first that matches a request holds.")
    overrides: OverridesEntry = Field(default_factory=OverridesEntry)

    @model_validator(mode="after")
    def _fits_together(self) -> "PolicyDocument":
        lines: list[InitErrorDetails] = [
            {
                "type": PydanticCustomError(TOGETHER, "{reason}", {"reason": reason}),
                "loc": location,
                "input": None,
            }
            for location, reason in (
                *unpayable(self.tiers, dict(enumerate(self.routes)), shadow=self.shadow),
                *twins(self.overrides.users, self.overrides.addresses),
            )
        ]
        if lines:
            raise ValidationError.from_exception_data("policy", lines)
        return self


Finding = tuple[tuple[str | int, ...], str]
"""Where, and why."""


def unpayable(tiers: TiersEntry, routes: Mapping[int, RouteEntry], *, shadow: bool) -> Iterator[Finding]:
    """Costs of routes, by their places, that no bucket could ever pay: each request would be denied."""
    enforced = [(name, tier) for name, tier in tiers.items() if tier is not None and not tier.shadow]
    for at, route in routes.items():
        if shadow or route.shadow or route.exempt:
            continue
        limits = [
            (f"routes[{at}].user_api", route.user_api)
            if name is TierName.USER_API and route.user_api is not None
            else (f"tiers.{name}", tier)
            for name, tier in enforced
        ]
        least, of = min(((limit.capacity, of) for of, limit in limits), default=(route.cost, ""))
        if route.cost > least:
            reason = f"must be {least} or less, the capacity of {of}, got {route.cost}"
            yield ("routes", at, "cost"), reason


def twins(users: Iterable[str], addresses: Iterable[str]) -> Iterator[Finding]:
    """Names that are one identity: only one of them could hold."""
    first: dict[str, str] = {}
    keys = [("users", name, plain_key(name)) for name in users]
    keys += [("addresses", name, key_of_address(name) or name) for name in addresses]
    for kind, name, key in keys:
        other = first.setdefault(key, name)
        if other != name:
            yield ("overrides", kind, name), f"must stand once, {other!r} is the same identity"


def full_form(policy: FlatPolicy | PolicyDocument) -> PolicyDocument:
    """The same policy in the full form."""
    if isinstance(policy, PolicyDocument):
        return policy
    return PolicyDocument.model_validate(
        {
            "tiers": {
                name.value: {
                    "capacity": getattr(policy, f"{name}_capacity"),
                    "refill_rate": getattr(policy, f"{name}_rate"),
                }
                for name in TierName
            }
        }
    )
