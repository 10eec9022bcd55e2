"""The oracle as a limiter: buckets in this process, by the arithmetic of `core/bucket.py`.

It decides exactly as the script in the store does, for one process and any clock. It keeps every bucket.
"""

from collections.abc import Callable

from ratelimitd.core.bucket import Bucket, charge_buckets
from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter


class MemoryLimiter:
    """A limiter over a dictionary.

    Args:
        now_us: the clock, in microseconds since any instant.
    """

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.buckets: dict[str, Bucket] = {}
        self._now_us = now_us

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. It never fails."""
        outcome, changed = charge_buckets(self.buckets, request, self._now_us())
        self.buckets.update(changed)
        return outcome


_port: type[Limiter] = MemoryLimiter
