"""What the requests of a drill say about the service. Pure: records in, figures out.

All instants are seconds of this machine's monotonic clock, which every process shares.

Two populations send the requests. **Roomy** users have buckets that no drill can empty, so a 429 for one of
them is wrong whatever the clock of the store does. **Tight** users have small buckets and send more than they
may, so their admissions show whether the law holds: at most `capacity + refill_rate * t` in any window of t
seconds.
"""

from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

ALLOWED, DENIED, UNAVAILABLE = 200, 429, 503
NO_ANSWER = 0
"""The status of a request whose connection failed, or that had no response in time."""

ROOMY, TIGHT = "roomy", "tight"

_ROUNDING = 1e-6
"""Tokens by which differences of instants may be off: records have whole microseconds."""

STEADY_S = 1.0
"""How long all roomy users must be served for the system to count as recovered."""


class Record(NamedTuple):
    """One request.

    Args:
        due_s: when the schedule wanted it sent. Its duration counts from here, so a queue in front of the
            service shows (no coordinated omission).
        sent_s: when it was written to a connection; `due_s` if it never was.
        ended_s: when its response was complete, or the request was given up.
        user: `roomy-N` or `tight-N`.
        status: the HTTP status, or NO_ANSWER.
    """

    due_s: float
    sent_s: float
    ended_s: float
    user: str
    status: int


def is_roomy(record: Record) -> bool:
    """Returns whether the request is one of a roomy user."""
    return record.user.startswith(ROOMY)


def failed(record: Record) -> bool:
    """Returns whether the request was neither served nor denied."""
    return record.status not in (ALLOWED, DENIED)


def by_status(records: Iterable[Record]) -> Counter[int]:
    """Returns the number of requests with each status."""
    return Counter(record.status for record in records)


def wrongly_denied(records: Iterable[Record]) -> int:
    """Returns the number of 429 for roomy users."""
    return sum(record.status == DENIED for record in records if is_roomy(record))


def over_admitted(records: Iterable[Record], capacity: int, refill_rate: float) -> int:
    """Returns the tokens that tight users got above the law: the worst window of each user, added up."""
    admitted = defaultdict(list)
    for record in records:
        if record.status == ALLOWED and not is_roomy(record):
            admitted[record.user].append((record.sent_s, record.ended_s))
    return sum(_excess(times, capacity, refill_rate) for times in admitted.values())


def _excess(admissions: Sequence[tuple[float, float]], capacity: int, refill_rate: float) -> int:
    """Returns the most admissions above `capacity + refill_rate * t` in any window of one user.

    A request was decided between its sending and its response. A window from the sending of one request to
    the response of another therefore holds at least the requests that were sent and answered within it.
    """
    worst, ends = 0, list[float]()
    for sent_s, ended_s in sorted(admissions, reverse=True):
        insort(ends, ended_s)
        for count in range(bisect_right(ends, ended_s), len(ends) + 1):
            allowed = capacity + refill_rate * (ends[count - 1] - sent_s)
            worst = max(worst, count - int(allowed + _ROUNDING))
    return worst


def slowest_s(records: Iterable[Record]) -> float:
    """Returns the longest time from when a request was due to its end."""
    return max((record.ended_s - record.due_s for record in records), default=0.0)


def recovery_s(records: Iterable[Record], since_s: float) -> float | None:
    """Returns how long after `since_s` roomy users were served again without a failure for STEADY_S.

    None if that did not happen.
    """
    later = sorted(record for record in records if is_roomy(record) and record.due_s >= since_s)
    steady_from_s = since_s
    for record in later:
        if record.due_s - steady_from_s >= STEADY_S:
            break
        if record.status != ALLOWED:
            steady_from_s = record.due_s
    else:
        return None
    return steady_from_s - since_s
