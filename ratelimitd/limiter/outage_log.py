"""Logs when the store goes away and when it is back: a line each, however many requests failed between."""

from collections.abc import Sequence

import structlog

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.errors import StoreError


class OutageLog:
    """The limiter that it wraps, and a log of its outages."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._log = structlog.get_logger("ratelimitd.store")
        self._failures = 0

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """The wrapped limiter's outcomes, and its StoreError."""
        try:
            outcomes = await self._limiter.take(requests)
        except StoreError as error:
            self._failures += 1
            if self._failures == 1:
                self._log.error("store_away", reason=str(error))
            raise
        if self._failures:
            failed, self._failures = self._failures, 0
            self._log.warning("store_back", failed_calls=failed)
        return outcomes


_port: type[Limiter] = OutageLog
