"""Reads the usage series from the store. What cannot be read is left out, with a warning."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ratelimitd.telemetry.decision_counts import OTHER_API
from ratelimitd.usage import layout
from ratelimitd.usage.blocks import Blocks
from ratelimitd.usage.folding import (
    ApiCounts,
    StepCounts,
    fold_apis,
    fold_steps,
    stored_count,
    warn_of_damage,
)
from ratelimitd.usage.ranges import Resolution
from ratelimitd.usage.stored_hashes import read_hashes


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


class SeriesReader:
    """Reads the series of any range, and keeps what does not change any more.

    Args:
        client: the store.
        config_key: the config key, which the keys of the series begin with.
    """

    def __init__(self, client: Redis, config_key: str) -> None:
        self._client = client
        self._config_key = config_key
        self._steps: dict[Resolution, Blocks[dict[int, StepCounts]]] = {}
        self._apis: dict[Resolution, Blocks[ApiCounts]] = {}
        self._decisions = 0

    async def totals(self, warnings: list[str]) -> Counter[str]:
        """Returns all decisions so far, by the codes of `layout`. Raises StoreError.

        If there are fewer than before, the store was emptied or replaced, so nothing that was kept is true.
        """
        totals: Counter[str] = Counter()
        for key, _, fields in await read_hashes(
            self._client, {layout.total_key(self._config_key): 0}, warnings
        ):
            damaged = 0
            for name, value in fields.items():
                code, count = layout.TOTAL_FIELDS.get(name.decode(errors="replace")), stored_count(value)
                if code is None or count is None:
                    damaged += 1
                else:
                    totals[code] += count
            warn_of_damage(warnings, key, damaged)
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
        blocks = self._steps.setdefault(resolution, Blocks(level, step_s, fold_steps))
        read = (self._client, self._config_key)
        for steps in (await blocks.read(*read, first_s, now_s, series.warnings)).values():
            series.steps |= {at_s: step for at_s, step in steps.items() if at_s >= first_s}
        names = await self._names(api_first_s, now_s, series.warnings)
        api_blocks = self._apis.setdefault(resolution, Blocks(api_level, api_step_s, fold_apis))
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
        for one in await read_hashes(self._client, keys, warnings):
            found |= {short: name.decode(errors="replace") for short, name in one.fields.items()}
        return found


def first_steps_s(resolution: Resolution, now_s: int) -> tuple[int, int]:
    """Returns the beginnings of the first step and of the first step by API.

    The last step of both is the one that `now_s` is in.
    """
    last_s = now_s - now_s % resolution.step_s
    first_s = last_s - resolution.seconds + resolution.step_s
    return first_s, first_s - first_s % resolution.api_step_s
