"""Turns samples into calls of `lua/usage_add.lua`, each of a bounded size."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from ratelimitd.usage import layout
from ratelimitd.usage.layout import APIS_COARSE, APIS_FINE, COARSE, FINE, Level
from ratelimitd.usage.sample import Sample

MAX_FIELDS = 40
"""Fields that a call adds to. The store does nothing else during a call, so calls must be short."""

_TOTAL_NAMES = {code: name for name, code in layout.TOTAL_FIELDS.items()}


class Addition(NamedTuple):
    """A call of the script."""

    keys: list[str]
    arguments: list[str | int | bytes]


class _Field(NamedTuple):
    """A field in the store: its two parts, its hash, and the API whose id is the first part, if any."""

    api: str
    key: str
    kept_s: int
    first: str
    second: str


class Additions:
    """Makes the additions of one replica, and numbers them.

    Args:
        config_key: the config key, which the keys of the series begin with.
        replica_id: the id of the replica.
    """

    def __init__(self, config_key: str, replica_id: str) -> None:
        self._config_key = config_key
        self._added_key = layout.added_key(config_key, replica_id)
        self._number = 0
        self._reported: dict[Level, int] = {}

    def of(self, samples: Sequence[tuple[int, Sample]], state: str, now_s: int) -> Iterator[Addition]:
        """Yields the calls that add these samples.

        Args:
            samples: in order of time, each with its time by the store's clock, in seconds.
            state: the value of `layout.STATE`, for the last sample.
            now_s: the time of the store's clock, in seconds.
        """
        counts: Counter[_Field] = Counter()
        for at_s, sample in samples:
            self._add_sample(counts, at_s, sample)
        values = {field: str(count) for field, count in counts.items()}
        for level in (FINE, COARSE):
            values[self._field(level, samples[-1][0], layout.STATE)] = f"={state}"
        # Both counts of an API, in all hashes, follow each other, so that a call has few names.
        ordered = sorted(values.items())  # by API, then by key
        for start in range(0, len(ordered), MAX_FIELDS):
            yield self._addition(ordered[start : start + MAX_FIELDS], now_s)

    def _add_sample(self, counts: Counter[_Field], at_s: int, sample: Sample) -> None:
        for level in (FINE, COARSE):
            for code, count in sample.counts.items():
                counts[self._field(level, at_s, code)] += count
            bucket = at_s // level.bucket_s
            if self._reported.get(level) != bucket:
                counts[self._field(level, at_s, layout.REPLICAS)] += 1
                self._reported[level] = bucket
        total = layout.total_key(self._config_key)
        for code, count in sample.counts.items():
            if code in _TOTAL_NAMES:
                counts[_Field("", total, layout.TOTAL_KEPT_S, "", _TOTAL_NAMES[code])] += count
        for level in (APIS_FINE, APIS_COARSE):
            key, kept_s = level.key(self._config_key, at_s), level.kept_s
            for (api, code), count in sample.apis.items():
                counts[_Field(api, key, kept_s, layout.api_id(api), code)] += count

    def _field(self, level: Level, at_s: int, code: str) -> _Field:
        offset = layout.OFFSETS[at_s % level.key_s // level.bucket_s]
        return _Field("", level.key(self._config_key, at_s), level.kept_s, offset, code)

    def _addition(self, values: Sequence[tuple[_Field, str]], now_s: int) -> Addition:
        self._number += 1
        keys = [self._added_key, layout.names_key(self._config_key, now_s)]
        names = {
            field.first: layout.stored_name(field.api)
            for field, _ in values
            if field.first not in {layout.OTHER_ID, ""} and field.api
        }
        arguments: list[str | int | bytes] = [
            *(self._number, layout.ADDED_KEPT_S, layout.NAMES_KEPT_S, layout.MAX_NAMES, layout.OTHER_ID),
            len(names),
        ]
        for short, name in names.items():
            arguments += (short, name)
        by_key = sorted(values, key=lambda item: item[0].key)
        for (key, kept_s), group in groupby(by_key, key=lambda item: (item[0].key, item[0].kept_s)):
            fields = [part for field, value in group for part in (field.first, field.second, value)]
            keys.append(key)
            arguments += (kept_s, len(fields) // 3, *fields)
        return Addition(keys, arguments)
