"""An answer in time, or none: the decision then falls to the outage policy."""

import asyncio
from collections.abc import Sequence

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError


class Deadline:
    """The limiter that it wraps, given up after `timeout_s` seconds."""

    def __init__(self, limiter: Limiter, timeout_s: float) -> None:
        self._limiter = limiter
        self._timeout_s = timeout_s

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """The wrapped limiter's outcomes. Raises StoreError, also when the time is over."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._limiter.take(requests)
        except TimeoutError as error:
            raise StoreError(f"no answer within {self._timeout_s * 1000:g} ms") from error


_port: type[Limiter] = Deadline
