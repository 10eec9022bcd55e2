"""The ranges of time that usage can be read for."""

from enum import StrEnum


class UsageRange(StrEnum):
    """A range of time that ends now."""

    QUARTER_HOUR = "15m"
    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"

    @property
    def seconds(self) -> int:
        """The length of the range."""
        return {"15m": 900, "1h": 3600, "24h": 86_400, "7d": 604_800}[self.value]
