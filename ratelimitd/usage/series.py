"""Reads the usage series from the store. What cannot be read is left out, with a warning."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.store.client import store_errors
from ratelimitd.telemetry.decision_counts import OTHER_API
from ratelimitd.usage import layout
from ratelimitd.usage.layout import Level
from ratelimitd.usage.ranges import Resolution

KEYS_PER_CALL = 64
"""Hashes read in one pipeline: some thousand fields, which take the store about a millisecond."""

MAX_COUNT = 1 << 63
"""Counts in the store are below this number."""

_COUNTED = {code.encode(): code for code in (*layout.CODES.values(), layout.LOCAL, *layout.STORE_SECONDS)}
_REPLICAS, _STATE = layout.REPLICAS.encode(), layout.STATE.encode()
_OFFSETS = {offset.encode(): at for at, offset in enumerate(layout.OFFSETS)}
_API_CODES = {layout.API_ALLOWED.encode(): 0, layout.API_DENIED.encode(): 1}


class Hash(NamedTuple):
    """A hash in the store, and the beginning of the time that it covers."""

    key: str
    at_s: int
    fields: Mapping[bytes, bytes]


class State(NamedTuple):
    """What a replica knew. `tokens` (micro) and `capacity` are None when the tier `global` is off."""

    revision: int
    tokens: int | None
    capacity: int | None


@dataclass(slots=True)
class StepCounts:
    """What the buckets of a step add up to.

    Args:
        counts: by the codes of `layout`.
        replicas: the most that reported in one bucket.
        state: that of the last bucket that has one.
        state_at_s: when that bucket begins.
    """

    counts: Counter[str] = field(default_factory=Counter)
    replicas: int = 0
    state: State | None = None
    state_at_s: int = -1


@dataclass(slots=True)
class Series:
    """The series of a range. A step is known by its beginning, in seconds since the epoch.

    Args:
        steps: the steps that have counts.
        apis: allowed and denied requests by the name of the API and the step.
        warnings: what could not be read, and why.
    """

    steps: defaultdict[int, StepCounts] = field(default_factory=lambda: defaultdict(StepCounts))
    apis: defaultdict[str, defaultdict[int, list[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(lambda: [0, 0]))
    )
    warnings: list[str] = field(default_factory=list)


async def read_series(client: Redis, config_key: str, resolution: Resolution, now_s: int) -> Series:
    """Returns the series of the range that ends at `now_s`, by the store's clock. Raises StoreError."""
    series = Series()
    first_s, api_first_s = first_steps_s(resolution, now_s)
    for part in _parts(_keys(resolution.level, config_key, first_s, now_s)):
        hashes = await _hashes(client, part, series.warnings)
        await asyncio.to_thread(_add_steps, series, hashes, resolution, first_s)
    names: dict[bytes, str] = {}
    for hash_ in await _hashes(client, _name_keys(config_key, api_first_s, now_s), series.warnings):
        names |= {short: name.decode(errors="replace") for short, name in hash_.fields.items()}
    for part in _parts(_keys(resolution.api_level, config_key, api_first_s, now_s)):
        hashes = await _hashes(client, part, series.warnings)
        await asyncio.to_thread(_add_apis, series, hashes, names, resolution.api_step_s)
    return series


async def read_totals(client: Redis, config_key: str, warnings: list[str]) -> Counter[str]:
    """Returns all decisions so far, by the codes of `layout`. Raises StoreError."""
    totals: Counter[str] = Counter()
    for key, _, fields in await _hashes(client, {layout.total_key(config_key): 0}, warnings):
        damaged = 0
        for name, value in fields.items():
            code, count = layout.TOTAL_FIELDS.get(name.decode(errors="replace")), _count(value)
            if code is None or count is None:
                damaged += 1
            else:
                totals[code] += count
        _warn_of_damage(warnings, key, damaged)
    return totals


def first_steps_s(resolution: Resolution, now_s: int) -> tuple[int, int]:
    """Returns the beginnings of the first step and of the first step by API.

    The last step of both is the one that `now_s` is in.
    """
    last_s = now_s - now_s % resolution.step_s
    first_s = last_s - resolution.seconds + resolution.step_s
    return first_s, first_s - first_s % resolution.api_step_s


def _keys(level: Level, config_key: str, first_s: int, now_s: int) -> dict[str, int]:
    """Returns the keys of a level that cover a time, with the beginning of each."""
    start_s = first_s - first_s % level.key_s
    return {level.key(config_key, at_s): at_s for at_s in range(start_s, now_s + 1, level.key_s)}


def _name_keys(config_key: str, first_s: int, now_s: int) -> dict[str, int]:
    days = range(first_s - first_s % layout.DAY_S, now_s + 1, layout.DAY_S)
    return {layout.names_key(config_key, at_s): at_s for at_s in days}


def _parts(keys: Mapping[str, int]) -> list[dict[str, int]]:
    each = list(keys.items())
    return [dict(each[at : at + KEYS_PER_CALL]) for at in range(0, len(each), KEYS_PER_CALL)]


async def _hashes(client: Redis, keys: Mapping[str, int], warnings: list[str]) -> list[Hash]:
    """Returns the hashes at these keys, each with its beginning. Raises StoreError."""
    with store_errors():
        pipeline = client.pipeline(transaction=False)
        for key in keys:
            pipeline.hgetall(key)
        replies = await pipeline.execute(raise_on_error=False)
        found = []
        for (key, at_s), reply in zip(keys.items(), replies, strict=True):
            if not isinstance(reply, Exception):
                found.append(Hash(key, at_s, reply))
            elif isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                warnings.append(f"the key {key} must be a hash, but holds another type; delete it")
            else:
                raise reply
    return found


def _add_steps(series: Series, hashes: Sequence[Hash], resolution: Resolution, first_s: int) -> None:
    """Adds buckets to the steps that they belong to. Buckets before `first_s` are left out."""
    bucket_s, step_s = resolution.level.bucket_s, resolution.step_s
    for key, start_s, fields in hashes:
        damaged = 0
        for name, value in fields.items():
            offset = _OFFSETS.get(name[:1])
            if offset is None:
                damaged += 1
                continue
            at_s = start_s + offset * bucket_s
            if at_s >= first_s:
                damaged += not _add_field(series.steps[at_s - at_s % step_s], name[1:], value, at_s)
        _warn_of_damage(series.warnings, key, damaged)


def _add_field(step: StepCounts, code: bytes, value: bytes, at_s: int) -> bool:
    """Adds a field of a bucket. Returns whether it could be read."""
    if code == _STATE:
        state = _state(value)
        if state is not None and at_s >= step.state_at_s:
            step.state, step.state_at_s = state, at_s
        return state is not None
    count = _count(value)
    if count is None:
        return False
    if code == _REPLICAS:
        step.replicas = max(step.replicas, count)
    elif (counted := _COUNTED.get(code)) is not None:
        step.counts[counted] += count
    else:
        return False
    return True


def _add_apis(series: Series, hashes: Sequence[Hash], names: Mapping[bytes, str], step_s: int) -> None:
    """Adds counts by API. An API whose name is lost counts as OTHER_API."""
    for key, at_s, fields in hashes:
        damaged = 0
        step_at_s = at_s - at_s % step_s
        for name, value in fields.items():
            outcome, count = _API_CODES.get(name[-1:]), _count(value)
            if outcome is None or count is None:
                damaged += 1
            else:
                series.apis[names.get(name[:-1], OTHER_API)][step_at_s][outcome] += count
        _warn_of_damage(series.warnings, key, damaged)


def _warn_of_damage(warnings: list[str], key: str, damaged: int) -> None:
    if damaged:
        warnings.append(f"{damaged} fields of {key} cannot be read and are left out")


def _count(value: bytes) -> int | None:
    """Returns a count, or None if it is damaged."""
    try:
        count = int(value)
    except ValueError:
        return None
    return count if 0 <= count < MAX_COUNT else None


def _state(value: bytes) -> State | None:
    """Returns the state in a field, or None if it is damaged."""
    numbers = [_count(part) for part in value.split()]
    match numbers:
        case [int(revision)]:
            return State(revision, None, None)
        case [int(revision), int(tokens), int(capacity)]:
            return State(revision, tokens, capacity)
    return None
