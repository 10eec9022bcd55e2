"""Rates as operators write them, such as 100/min: in policies and in settings."""

import re

UNIT_S = {"s": 1, "min": 60, "h": 3600, "day": 86400}
"""Seconds in each unit of a rate."""

RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?(?:[eE][+-]?[0-9]{1,2})?)/(s|min|h|day)")


def per_second(rate: str) -> float:
    """Returns how many per second a rate such as `100/min` is. Raises ValueError with a sentence."""
    found = RATE.fullmatch(rate)
    if found is None:
        raise ValueError("must be a number, a slash and s, min, h or day, such as 100/min")
    return float(found[1]) / UNIT_S[found[2]]
