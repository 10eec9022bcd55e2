"""The policy in force, read without writing, and the recording of direct writes before a change."""

import asyncio
from contextlib import suppress

from ratelimitd.control.answers import CurrentPolicy
from ratelimitd.errors import ConflictError, PolicyError
from ratelimitd.policy.text import parse
from ratelimitd.rollout.conflict import other_text_reason
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.rollout.snapshot import PolicySnapshot

ATTEMPTS = 3
"""Attempts to record a direct write, or to make a change, while others write at the same time."""


async def current_policy(revisions: Revisions, snapshot: PolicySnapshot) -> CurrentPolicy:
    """Returns the policy in force at a snapshot. Writes nothing."""
    lost_us = snapshot.lost.noticed_us if snapshot.lost is not None and snapshot.is_lost else 0
    if not snapshot.foreign:
        revision = await revisions.newest(snapshot)
        return CurrentPolicy(revision=revision, recorded=not lost_us, lost_us=lost_us)
    try:
        await asyncio.to_thread(parse, snapshot.text())
    except PolicyError as error:
        revision = await revisions.last_good(snapshot.lost)
        return CurrentPolicy(revision=revision, refused=error.problems, lost_us=0)
    return CurrentPolicy(revision=snapshot.unrecorded(), recorded=False, lost_us=0)


async def snapshot_to_replace(
    revisions: Revisions, config_key: str, expected: Expected | None
) -> PolicySnapshot:
    """Records a valid text that was written directly, if there is one, and returns the state after that.

    Raises ConflictError if the text changes again and again, or if `expected` has the number of the newest
    revision but may stand for another text. `Revisions.commit` compares the numbers.
    """
    recorded: int | None = None
    for _ in range(ATTEMPTS):
        snapshot = await revisions.snapshot()
        if not snapshot.foreign or not await _is_policy(snapshot):
            if expected is not None and expected.number == snapshot.head:
                newest = await revisions.newest(snapshot)
                if not expected.names(newest) or (recorded == expected.number and not expected.digest):
                    raise ConflictError(other_text_reason(config_key, expected, newest))
            return snapshot
        with suppress(ConflictError):  # the key changed again: read it again
            recorded = (await revisions.adopt(snapshot)).number
    raise ConflictError(
        f"{config_key} is being written directly again and again, and nothing was changed; "
        "try again when those writes have stopped"
    )


async def _is_policy(snapshot: PolicySnapshot) -> bool:
    try:
        await asyncio.to_thread(parse, snapshot.text())
    except PolicyError:
        return False
    return True
