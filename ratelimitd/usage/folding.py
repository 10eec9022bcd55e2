"""Adds up the fields of hashes of the usage series. Damaged fields are left out, with a warning."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ratelimitd.usage import layout
from ratelimitd.usage.stored_hashes import Hash

MAX_COUNT = 1 << 63
"""Counts in the store are below this number."""

_FIELDS = {
    f"{offset}{code}".encode(): (at, code)
    for at, offset in enumerate(layout.OFFSETS)
    for code in (
        *layout.CODES.values(),
        *layout.STORE_SECONDS,
        *(layout.LOCAL, layout.DEGRADED, layout.REPLICAS, layout.STATE),
    )
}
"""The place and the code of each field of a bucket."""

_API_CODES = {layout.API_ALLOWED.encode(): 0, layout.API_DENIED.encode(): 1}

ApiCounts = dict[bytes, list[int]]
"""Allowed and denied requests by the id of an API."""


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
        state: the state in the last bucket that has one.
        state_at_s: when that bucket begins.
    """

    counts: Counter[str] = field(default_factory=Counter)
    replicas: int = 0
    state: State | None = None
    state_at_s: int = -1


def fold_steps(
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
        warn_of_damage(warnings, key, damaged)
    return dict(steps)


def _added(step: StepCounts, code: str, value: bytes, at_s: int) -> bool:
    """Adds a field of a bucket. Returns whether it could be read."""
    if code == layout.STATE:
        state = _state(value)
        if state is not None and at_s >= step.state_at_s:
            step.state, step.state_at_s = state, at_s
        return state is not None
    count = stored_count(value)
    if count is None or not code:
        return False
    if code == layout.REPLICAS:
        step.replicas = max(step.replicas, count)
    else:
        step.counts[code] += count
    return True


def fold_apis(hashes: Sequence[Hash], _bucket_s: int, _step_s: int, warnings: list[str]) -> ApiCounts:
    """Returns the counts of a block, which is one step."""
    apis: ApiCounts = {}
    for key, _, fields in hashes:
        damaged = 0
        for name, value in fields.items():
            outcome, count = _API_CODES.get(name[-1:]), stored_count(value)
            if outcome is None or count is None:
                damaged += 1
            else:
                apis.setdefault(name[:-1], [0, 0])[outcome] += count
        warn_of_damage(warnings, key, damaged)
    return apis


def warn_of_damage(warnings: list[str], key: str, damaged: int) -> None:
    """Adds a warning if fields are damaged."""
    if damaged:
        warnings.append(f"damaged fields of {key} are left out: {damaged}")


def stored_count(value: bytes) -> int | None:
    """Returns a count, or None if it is damaged."""
    try:
        count = int(value)
    except ValueError:
        return None
    return count if 0 <= count < MAX_COUNT else None


def _state(value: bytes) -> State | None:
    """Returns the state in a field, or None if it is damaged."""
    match [stored_count(part) for part in value.split()]:
        case [int(revision)]:
            return State(revision, None, None)
        case [int(revision), int(tokens), int(capacity)]:
            return State(revision, tokens, capacity)
    return None
