"""Whole numbers as other programs write them: 1000000.0 and 1e+06 are the number 1000000."""

from contextlib import suppress
from typing import Any

from pydantic import BeforeValidator


def whole_number(value: Any) -> Any:
    """Returns a float without a fraction as an int, and every other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE_NUMBER = BeforeValidator(whole_number)
"""Lets a strict int be given as a float without a fraction. Helm, for example, writes large numbers so.

It must come after the bounds in Annotated: the JSON Schema loses bounds that come after it.
"""


def whole_number_in_text(text: Any) -> Any:
    """Returns the whole number that a text such as `1e+06` holds, and every other value as it is."""
    with suppress(ValueError, TypeError):
        number = whole_number(float(text))
        return number if isinstance(number, int) else text
    return text
