"""The ranges of time that usage can be read for, and the length of their steps."""

from enum import StrEnum
from typing import NamedTuple

from ratelimitd.usage.layout import APIS_COARSE, APIS_FINE, COARSE, FINE, Level


class UsageRange(StrEnum):
    """A range of time that ends now."""

    QUARTER_HOUR = "15m"
    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def seconds(self) -> int:
        """The length of the range."""
        return RESOLUTIONS[self].seconds


class Resolution(NamedTuple):
    """How a range is read.

    Args:
        seconds: length of the range.
        level: the buckets that the counts of all requests are read from.
        step_s: length of a step of these; a whole number of buckets.
        api_level: the buckets that the counts by API are read from.
        api_step_s: length of a step of these.
    """

    seconds: int
    level: Level
    step_s: int
    api_level: Level
    api_step_s: int


RESOLUTIONS = {
    UsageRange.QUARTER_HOUR: Resolution(900, FINE, 10, APIS_FINE, 60),
    UsageRange.HOUR: Resolution(3600, FINE, 10, APIS_FINE, 60),
    UsageRange.DAY: Resolution(86_400, COARSE, 300, APIS_COARSE, 1800),
    UsageRange.WEEK: Resolution(604_800, COARSE, 1800, APIS_COARSE, 7200),
}
"""Each range has at most 360 steps, enough for the width of a chart."""
