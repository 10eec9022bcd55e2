"""What is in force beside a text that is refused: the newest revision that can be read.

A revision may be damaged, lost, or written by a later version with words that this one does not know. Then
the one before it counts, and when there is none, number 0, the defaults.
"""

import asyncio

from ratelimitd.errors import PolicyError
from ratelimitd.policy.text import parse
from ratelimitd.rollout.revision import Revision
from ratelimitd.rollout.revisions import Revisions


async def last_good(revisions: Revisions) -> Revision:
    """The newest revision whose text is a policy. Raises StoreError."""
    async for revision in revisions.newest_first():
        try:
            await asyncio.to_thread(parse, revision.text)
        except PolicyError:
            continue
        return revision
    raise AssertionError  # pragma: no cover - the last one is the defaults
