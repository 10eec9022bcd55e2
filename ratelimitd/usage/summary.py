"""Summaries of counts by key in bounded memory.

For each key that a summary lists, the true count is between `requests - error` and `requests`. A key that it
does not list has a true count of at most `floor`. This holds for every stream of keys, after `cut`, and after
`merge`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple


class Count(NamedTuple):
    """The requests of a key: at most `requests`, and at least `requests - error`."""

    requests: int
    error: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts by key.

    Args:
        total: the number of requests counted, exactly.
        floor: the highest count that a key that is not listed may have.
        counts: the listed keys. None of them has fewer than `floor` requests.
    """

    total: int = 0
    floor: int = 0
    counts: Mapping[str, Count] = field(default_factory=dict)

    def cut(self, most: int) -> "Summary":
        """Returns a summary that lists `most` keys, those with the most requests, most first."""
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1].requests, item[1].error, item[0]))
        floor = ranked[most][1].requests if len(ranked) > most else self.floor
        return Summary(self.total, floor, dict(ranked[:most]))


def merge(summaries: Sequence[Summary]) -> Summary:
    """Returns the sums of summaries of different requests. One that does not list a key adds its floor."""
    floor = sum(summary.floor for summary in summaries)
    unlisted = Count(floor, floor)
    merged: dict[str, Count] = {}
    for summary in summaries:
        for key, (requests, error) in summary.counts.items():
            known = merged.get(key, unlisted)
            merged[key] = Count(
                known.requests + requests - summary.floor, known.error + error - summary.floor
            )
    return Summary(sum(summary.total for summary in summaries), floor, merged)


class SummaryCounter:
    """Counts keys and keeps about `kept` of them. Its floor is at most the number of requests / `kept`.

    This is the frequent-items algorithm of Misra and Gries with decrements in bulk: whenever there are more
    than `kept` keys, the count of each decreases by the count of the key that ranks `kept`, keys at zero are
    dropped, and the floor rises as much. A count in `_excess` is what a key has above the floor, so a new key
    begins at the floor without a look at it.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._total = 0
        self._floor = 0
        self._excess: Counter[str] = Counter()
        self._errors: dict[str, int] = {}  # of the keys that survived a prune; the others' is the floor

    def add(self, keys: Sequence[str]) -> None:
        """Counts a request for each of these keys."""
        self._total += len(keys)
        self._excess.update(keys)
        if len(self._excess) > self._kept:
            self._prune()

    def _prune(self) -> None:
        cut = sorted(self._excess.values())[-self._kept]
        errors, floor = self._errors, self._floor
        self._excess = Counter({key: count - cut for key, count in self._excess.items() if count > cut})
        self._errors = {key: errors.get(key, floor) for key in self._excess}
        self._floor += cut

    def summary(self, most: int) -> Summary:
        """Returns what was counted so far, as a summary of the `most` keys with the most requests."""
        floor, errors = self._floor, self._errors
        ranked = sorted(self._excess.items(), key=itemgetter(1), reverse=True)
        next_excess = ranked[most][1] if len(ranked) > most else 0
        return Summary(
            self._total,
            floor + next_excess,
            {key: Count(floor + excess, errors.get(key, floor)) for key, excess in ranked[:most]},
        )
