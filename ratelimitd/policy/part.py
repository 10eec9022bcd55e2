"""The base of all parts of a policy, and the types of problems that only policies have."""

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

ONE_REQUIRED = "one_required"
"""Type of the problem that none of several alternatives is given."""

INCONSISTENT = "inconsistent"
"""Type of a problem between parts that are valid on their own."""

TOO_MANY = "too_many"
"""Type of the problem that a list or an object has too many items."""


class Part(BaseModel):
    """A part of a policy: strict, immutable, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def at_most(most: int) -> BeforeValidator:
    """Rejects a longer list before its items are validated: each mistake in them would take a kilobyte."""

    def checked(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            raise PydanticCustomError(TOO_MANY, "must have at most {most}", {"most": most})
        return value

    return BeforeValidator(checked)
