"""Reads the usage series from the store. What cannot be read is left out, with a warning.

Series are read in blocks, each of which has whole steps and whole hashes. A block that is over does not
change any more, so it is kept: a panel that shows a week again and again reads only what is new.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.store.client import store_errors
from ratelimitd.telemetry.decision_counts import OTHER_API
from ratelimitd.usage import layout
from ratelimitd.usage.layout import Level
from ratelimitd.usage.ranges import Resolution

KEYS_PER_CALL = 64
"""Hashes read in one pipeline: some thousand fields, which take the store about a millisecond."""

CLOSED_AFTER_S = 900
"""When a block has been over for this long, no replica adds to it any more: not even after an outage of ten
minutes."""

MAX_COUNT = 1 << 63
"""Counts in the store are below this number."""

_FIELDS = {
    f"{offset}{code}".encode(): (at, code)
    for at, offset in enumerate(layout.OFFSETS)
    for code in (
        *layout.CODES.values(),
        *layout.STORE_SECONDS,
        *(layout.LOCAL, layout.REPLICAS, layout.STATE),
    )
}
"""The place and the code of each field of a bucket."""

_API_CODES = {layout.API_ALLOWED.encode(): 0, layout.API_DENIED.encode(): 1}

ApiCounts = dict[bytes, list[int]]
"""Allowed and denied requests by the id of an API."""


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

    steps: dict[int, StepCounts] = field(default_factory=dict)
    apis: defaultdict[str, dict[int, list[int]]] = field(default_factory=lambda: defaultdict(dict))
    warnings: list[str] = field(default_factory=list)


Folded = TypeVar("Folded")


class _Blocks(Generic[Folded]):
    """The blocks of a level, for steps of one length. Those that are closed are kept.

    Args:
        level: the level.
        step_s: length of a step, in seconds.
        fold: adds up the hashes of a block, and puts what it cannot read into the list of warnings.
    """

    def __init__(
        self, level: Level, step_s: int, fold: Callable[[Sequence[Hash], int, int, list[str]], Folded]
    ) -> None:
        self._level = level
        self._step_s = step_s
        self._fold = fold
        self._block_s = max(step_s, level.key_s)
        self._kept: dict[int, Folded] = {}

    async def read(
        self, client: Redis, config_key: str, first_s: int, now_s: int, warnings: list[str]
    ) -> dict[int, Folded]:
        """Returns the blocks that cover a time, by their beginnings. Raises StoreError."""
        starts_s = range(first_s - first_s % self._block_s, now_s + 1, self._block_s)
        found = {at_s: self._kept[at_s] for at_s in starts_s if at_s in self._kept}
        missing = [at_s for at_s in starts_s if at_s not in found]
        at_once = KEYS_PER_CALL * self._level.key_s // self._block_s
        closed: dict[int, Folded] = {}
        for at in range(0, len(missing), at_once):
            hashes = await self._hashes(client, config_key, missing[at : at + at_once], warnings)
            for at_s, block, complaints in await asyncio.to_thread(self._folded, hashes):
                found[at_s] = block
                warnings += complaints
                if at_s + self._block_s + CLOSED_AFTER_S <= now_s and not complaints:
                    closed[at_s] = block
        self._kept = {at_s: block for at_s, block in (self._kept | closed).items() if at_s >= starts_s[0]}
        return found

    async def _hashes(
        self, client: Redis, config_key: str, starts_s: Sequence[int], warnings: list[str]
    ) -> list[tuple[int, list[Hash]]]:
        """Returns the hashes of each block."""
        keys = {
            self._level.key(config_key, at_s): at_s
            for start_s in starts_s
            for at_s in range(start_s, start_s + self._block_s, self._level.key_s)
        }
        found: dict[int, list[Hash]] = {start_s: [] for start_s in starts_s}
        for one in await _hashes(client, keys, warnings):
            found[one.at_s - one.at_s % self._block_s].append(one)
        return list(found.items())

    def _folded(self, blocks: Sequence[tuple[int, list[Hash]]]) -> list[tuple[int, Folded, list[str]]]:
        folded = []
        for at_s, hashes in blocks:
            warnings: list[str] = []
            folded.append((at_s, self._fold(hashes, self._level.bucket_s, self._step_s, warnings), warnings))
        return folded


class SeriesReader:
    """Reads the series of any range, and keeps what does not change any more.

    Args:
        client: the store.
        config_key: the config key, which the keys of the series begin with.
    """

    def __init__(self, client: Redis, config_key: str) -> None:
        self._client = client
        self._config_key = config_key
        self._steps: dict[tuple[Level, int], _Blocks[dict[int, StepCounts]]] = {}
        self._apis: dict[tuple[Level, int], _Blocks[ApiCounts]] = {}
        self._decisions = 0

    async def totals(self, warnings: list[str]) -> Counter[str]:
        """Returns all decisions so far, by the codes of `layout`. Raises StoreError.

        If there are fewer than before, the store was emptied or replaced, so nothing that was kept is true.
        """
        totals: Counter[str] = Counter()
        for key, _, fields in await _hashes(self._client, {layout.total_key(self._config_key): 0}, warnings):
            damaged = 0
            for name, value in fields.items():
                code, count = layout.TOTAL_FIELDS.get(name.decode(errors="replace")), _count(value)
                if code is None or count is None:
                    damaged += 1
                else:
                    totals[code] += count
            _warn_of_damage(warnings, key, damaged)
        if totals.total() < self._decisions:
            self._steps.clear()
            self._apis.clear()
        self._decisions = totals.total()
        return totals

    async def series(self, resolution: Resolution, now_s: int) -> Series:
        """Returns the series of the range that ends at `now_s`, by the store's clock. Raises StoreError."""
        series = Series()
        first_s, api_first_s = first_steps_s(resolution, now_s)
        _, level, step_s, api_level, api_step_s = resolution
        blocks = self._steps.setdefault((level, step_s), _Blocks(level, step_s, _fold_steps))
        read = (self._client, self._config_key)
        for steps in (await blocks.read(*read, first_s, now_s, series.warnings)).values():
            series.steps |= {at_s: step for at_s, step in steps.items() if at_s >= first_s}
        names = await self._names(api_first_s, now_s, series.warnings)
        api_blocks = self._apis.setdefault(
            (api_level, api_step_s), _Blocks(api_level, api_step_s, _fold_apis)
        )
        for at_s, counts in (await api_blocks.read(*read, api_first_s, now_s, series.warnings)).items():
            for short, (allowed, denied) in counts.items():
                step = series.apis[names.get(short, OTHER_API)].setdefault(at_s, [0, 0])
                step[0] += allowed
                step[1] += denied
        return series

    async def _names(self, first_s: int, now_s: int, warnings: list[str]) -> dict[bytes, str]:
        """Returns the names of APIs by id."""
        days = range(first_s - first_s % layout.DAY_S, now_s + 1, layout.DAY_S)
        keys = {layout.names_key(self._config_key, at_s): at_s for at_s in days}
        found: dict[bytes, str] = {}
        for one in await _hashes(self._client, keys, warnings):
            found |= {short: name.decode(errors="replace") for short, name in one.fields.items()}
        return found


def first_steps_s(resolution: Resolution, now_s: int) -> tuple[int, int]:
    """Returns the beginnings of the first step and of the first step by API.

    The last step of both is the one that `now_s` is in.
    """
    last_s = now_s - now_s % resolution.step_s
    first_s = last_s - resolution.seconds + resolution.step_s
    return first_s, first_s - first_s % resolution.api_step_s


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


def _fold_steps(
    hashes: Sequence[Hash], bucket_s: int, step_s: int, warnings: list[str]
) -> dict[int, StepCounts]:
    """Returns the steps of a block."""
    steps: defaultdict[int, StepCounts] = defaultdict(StepCounts)
    for key, start_s, fields in hashes:
        damaged = 0
        for name, value in fields.items():
            offset, code = _FIELDS.get(name, (0, ""))
            at_s = start_s + offset * bucket_s
            if not _added(steps[at_s - at_s % step_s], code, value, at_s):
                damaged += 1
        _warn_of_damage(warnings, key, damaged)
    return dict(steps)


def _added(step: StepCounts, code: str, value: bytes, at_s: int) -> bool:
    """Adds a field of a bucket. Returns whether it could be read."""
    if code == layout.STATE:
        state = _state(value)
        if state is not None and at_s >= step.state_at_s:
            step.state, step.state_at_s = state, at_s
        return state is not None
    count = _count(value)
    if count is None or not code:
        return False
    if code == layout.REPLICAS:
        step.replicas = max(step.replicas, count)
    else:
        step.counts[code] += count
    return True


def _fold_apis(hashes: Sequence[Hash], _bucket_s: int, _step_s: int, warnings: list[str]) -> ApiCounts:
    """Returns the counts of a block, which is one step."""
    apis: ApiCounts = {}
    for key, _, fields in hashes:
        damaged = 0
        for name, value in fields.items():
            outcome, count = _API_CODES.get(name[-1:]), _count(value)
            if outcome is None or count is None:
                damaged += 1
            else:
                apis.setdefault(name[:-1], [0, 0])[outcome] += count
        _warn_of_damage(warnings, key, damaged)
    return apis


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
    match [_count(part) for part in value.split()]:
        case [int(revision)]:
            return State(revision, None, None)
        case [int(revision), int(tokens), int(capacity)]:
            return State(revision, tokens, capacity)
    return None
