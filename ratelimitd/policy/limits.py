"""Limits as a policy states them: of tiers, and of the routes and overrides that have their own.

The fields that name tiers are made from the table of tiers. The descriptions become the JSON Schema, so they
are written for operators.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, field_validator
from pydantic_core import PydanticCustomError

from ratelimitd.core.tiers import TIERS, Tier, TierName
from ratelimitd.policy.field_types import Capacity, Lease, Maybe, Rate, RateText, StoreAnswer
from ratelimitd.policy.part import ONE_REQUIRED, Part
from ratelimitd.rate_text import per_second

_ABSENT: Any = object()

P = TypeVar("P", bound=Part)


def with_fields(fields: Mapping[str, Any]) -> Callable[[type[P]], type[P]]:
    """Decorates a part with further fields, each a type and a default or a Field."""

    def extended(part: type[P]) -> type[P]:
        return create_model(
            part.__name__, __base__=part, __module__=part.__module__, __doc__=part.__doc__, **fields
        )

    return extended


class LimitEntry(Part):
    """The size of a bucket and its refill: capacity, and either refill_rate or rate."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["refill_rate"]}, {"required": ["rate"]}]}
    )

    capacity: Capacity = Field(description="Tokens that a full bucket holds: the largest burst.")
    refill_rate: Maybe[Rate] = Field(None, description="Tokens added per second.")
    rate: Maybe[RateText] = Field(
        default_factory=lambda: _ABSENT,
        validate_default=True,
        description="Tokens added per unit of time, such as 100/min. The units are s, min, h and day.",
    )

    @field_validator("rate", mode="wrap")
    @classmethod
    def _one_of_both(cls, rate: Any, validate: Callable[[Any], Any], info: ValidationInfo) -> Any:
        # An invalid refill_rate is absent from the data: one problem is enough.
        other = info.data.get("refill_rate", _ABSENT)
        if rate is _ABSENT:
            if other is None:
                raise PydanticCustomError(ONE_REQUIRED, "must be given, or refill_rate")
            return None
        if other not in {None, _ABSENT}:
            raise ValueError("must not be given beside refill_rate: give one of them")
        return validate(rate)

    @property
    def tokens_per_s(self) -> float:
        """The refill in tokens per second, from either field."""
        return per_second(self.rate) if self.refill_rate is None and self.rate else self.refill_rate or 0.0


class TierEntry(LimitEntry):
    """The limit of a tier."""

    shadow: bool = Field(
        default=False, description="The tier counts the requests that it would deny, and denies none."
    )
    on_store_error: Maybe[StoreAnswer] = Field(
        None, description="The tier's answer while the store is unavailable. Default: the setting's."
    )


class LeasableTierEntry(TierEntry):
    """The limit of a tier whose tokens replicas may lease."""

    lease: Lease = Field(
        default="off",
        description="With auto, replicas take many of its tokens at once and spend them within half a "
        "second. In a Redis Cluster they always do.",
    )


def _off(value: Any) -> Any:
    if value is False or value == "off":
        return None
    if not isinstance(value, dict | TierEntry):
        raise ValueError("must be a limit, or off to switch the tier off")  # noqa: TRY004 - pydantic's way
    return value


def _tier_field(tier: Tier) -> tuple[Any, Any]:
    entry = LeasableTierEntry if tier.leasable else TierEntry
    off = BeforeValidator(_off, json_schema_input_type=entry | Literal["off", False])
    description = f"{tier.meaning}."
    return Annotated[entry | None, off], Field(... if tier.required else None, description=description)


@with_fields({tier.name.value: _tier_field(tier) for tier in TIERS.values()})
class TiersEntry(Part):
    """The buckets that a request takes tokens from. Each is a limit, or off."""

    def items(self) -> list[tuple[TierName, TierEntry | None]]:
        """Returns each tier and its limit, None when it is off, widest first."""
        return [(name, getattr(self, name)) for name in TIERS]


class LimitingPart(Part):
    """A part that may have limits of its own, in fields named after tiers."""

    def limits(self) -> dict[TierName, LimitEntry]:
        """Returns the limits that are given, by tier, widest first."""
        fields = vars(self)  # getattr is slow for a field that this part does not have
        return {name: limit for name in TIERS if (limit := fields.get(name)) is not None}


MaybeLimit = Maybe[LimitEntry]


def limit_fields(descriptions: Mapping[TierName, str]) -> dict[str, Any]:
    """Returns the fields of a LimitingPart for these tiers, for `with_fields`."""
    return {name.value: (MaybeLimit, Field(None, description=text)) for name, text in descriptions.items()}
