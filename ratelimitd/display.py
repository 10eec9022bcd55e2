"""Numbers, durations and times as people read them, on the command line and in the panel."""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Protocol

from ratelimitd.core.model import MICRO

_UNITS_S = (("d", 86_400), ("h", 3600), ("min", 60))


def printable(text: str) -> str:
    """Returns the text with unprintable characters, such as escape, written as JSON escapes.

    These include surrogates, which stand for bytes outside UTF-8, and marks that turn the direction of text.
    """
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def number(value: float, decimals: int = 6) -> str:
    """Returns a number without an exponent or trailing zeros: 5, 0.25, 1000000."""
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: 1 route, 2 routes."""
    return f"{count} {noun if count == 1 else noun + 's'}"


def tokens(micro: int) -> str:
    """Returns microtokens in tokens, with at most three decimals, never rounded up."""
    return number(micro // 1000 / 1000, 3)


def duration(us: int, decimals: int = 3) -> str:
    """Returns a duration in its two largest units: 1.5 s, 3 min 20 s, 11 d 13 h.

    It is rounded up, so that waiting this long is always enough.
    """
    digit_us = MICRO // 10**decimals
    us = -(-us // digit_us) * digit_us
    if us < 60 * MICRO:
        return f"{number(us / MICRO, decimals)} s"
    left_s, found = -(-us // MICRO), list[tuple[int, str]]()
    for unit, unit_s in (*_UNITS_S, ("s", 1)):
        count, left_s = divmod(left_s, unit_s)
        if count or found:
            found.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in found[:2] if count)


def age(us: int) -> str:
    """Returns a duration in its largest unit, with one decimal: 1.5 min. A negative one counts as 0."""
    seconds = max(0, us) / MICRO
    for unit, unit_s in _UNITS_S:
        if seconds >= unit_s:
            return f"{seconds / unit_s:.1f} {unit}"
    return f"{seconds:.1f} s"


class BucketAtKey(Protocol):
    """What the notes on a bucket are made of. `control/answers.py` describes the attributes."""

    @property
    def key(self) -> str: ...  # noqa: D102 - see above

    @property
    def no_refill_for_us(self) -> int: ...  # noqa: D102 - see above

    @property
    def not_a_bucket(self) -> str | None: ...  # noqa: D102 - see above


def bucket_notes(buckets: Iterable[BucketAtKey]) -> Iterator[str]:
    """Yields a sentence on each bucket that is in an unusual state."""
    for bucket in buckets:
        if bucket.not_a_bucket is not None:
            yield (
                f"{bucket.key} holds a value that is not a bucket (type {bucket.not_a_bucket}); it counts as "
                "full, and the next request that is charged to it makes it a bucket"
            )
        elif bucket.no_refill_for_us:
            no_refill_for = duration(bucket.no_refill_for_us)
            yield f"{bucket.key} gets no refill for {no_refill_for}, because its last is in the future"


class TierAtKey(BucketAtKey, Protocol):
    """What the notes on a tier are made of."""

    @property
    def leased_up_to(self) -> int: ...  # noqa: D102 - see above


def tier_notes(tiers: Iterable[TierAtKey]) -> Iterator[str]:
    """Yields a sentence on each tier with a bucket in an unusual state, or with tokens that may be leased."""
    for tier in tiers:
        yield from bucket_notes([tier])
        if tier.leased_up_to:
            yield (
                f"of {tier.key}, replicas may hold up to {tokens(tier.leased_up_to)} tokens in leases, so "
                "they may allow more than this bucket could pay"
            )


def utc_time(at_us: int) -> str:
    """Returns microseconds since the epoch as a time: 2026-01-31 12:00:00 UTC.

    Returns "unknown" for a time that no calendar has: values in the store may be written by hand.
    """
    try:
        return f"{datetime.fromtimestamp(at_us // MICRO, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return "unknown"
