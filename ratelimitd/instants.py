"""Instants: microseconds since the epoch in Python, ISO 8601 in UTC with milliseconds as text and JSON."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import PlainSerializer

from ratelimitd.core.model import MAX_EXACT, MICRO


def iso_instant(at_us: int) -> str:
    """Returns an instant such as 2026-01-31T12:00:00.123Z.

    Values outside 1970 to 2255 come only from manual edits of the store. They are clamped, so that one bad
    value cannot break the answer that holds it.
    """
    whole_s, rest_us = divmod(min(max(at_us, 0), MAX_EXACT), MICRO)
    return f"{datetime.fromtimestamp(whole_s, UTC):%Y-%m-%dT%H:%M:%S}.{rest_us // 1000:03d}Z"


def _optional_instant(at_us: int) -> str | None:
    return iso_instant(at_us) if at_us else None


Instant = Annotated[int, PlainSerializer(iso_instant, return_type=str)]
"""A field in microseconds since the epoch, serialized as ISO 8601."""

OptionalInstant = Annotated[int, PlainSerializer(_optional_instant, return_type=str | None)]
"""Like Instant; 0 means unknown and is serialized as null."""
