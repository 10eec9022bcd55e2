"""Reads the usage series in blocks, each of which has whole steps and whole hashes.

A block that is over does not change any more, so it is kept: a panel that shows a week again and again reads
only what is new.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from redis.asyncio import Redis

from ratelimitd.usage.layout import Level
from ratelimitd.usage.stored_hashes import Hash, read_hashes

KEYS_PER_CALL = 64
"""Hashes read in one pipeline: some thousand fields, which take the store about a millisecond."""

CLOSED_AFTER_S = 900
"""When a block has been over for this long, no replica adds to it any more: not even after an outage of ten
minutes."""

Folded = TypeVar("Folded")


class Blocks(Generic[Folded]):
    """The blocks of a level, for steps of one length. Closed blocks are kept.

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
        # If the store's clock has stepped back, replicas add to blocks that were closed before.
        closed_until_s = now_s - CLOSED_AFTER_S - self._block_s
        kept = {at_s: one for at_s, one in self._kept.items() if starts_s[0] <= at_s <= closed_until_s}
        found = kept.copy()
        missing = [at_s for at_s in starts_s if at_s not in found]
        at_once = KEYS_PER_CALL * self._level.key_s // self._block_s
        for at in range(0, len(missing), at_once):
            hashes = await self._hashes(client, config_key, missing[at : at + at_once], warnings)
            for at_s, block, complaints in await asyncio.to_thread(self._folded, hashes):
                found[at_s] = block
                warnings += complaints
                if at_s <= closed_until_s and not complaints:
                    kept[at_s] = block
        self._kept = kept
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
        for one in await read_hashes(client, keys, warnings):
            found[one.at_s - one.at_s % self._block_s].append(one)
        return list(found.items())

    def _folded(self, blocks: Sequence[tuple[int, list[Hash]]]) -> list[tuple[int, Folded, list[str]]]:
        folded = []
        for at_s, hashes in blocks:
            warnings: list[str] = []
            folded.append((at_s, self._fold(hashes, self._level.bucket_s, self._step_s, warnings), warnings))
        return folded
