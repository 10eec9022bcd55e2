"""Logs when the store goes away and when it is back: a line each, however many decisions failed between."""

import structlog


class OutageLog:
    """Is told how decisions end."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ratelimitd.store")
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """A decision failed."""
        self._failures += 1
        if self._failures == 1:
            self._log.error("store_away", reason=str(error))

    def over(self) -> None:
        """A decision was answered."""
        if self._failures:
            failed, self._failures = self._failures, 0
            self._log.warning("store_back", failed_calls=failed)
