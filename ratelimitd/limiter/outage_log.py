"""Log when the store stops answering and when it answers again, one line each."""

import structlog


class OutageLog:
    """Counts the decisions that failed between the two lines."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ratelimitd.store")
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Notes that a decision failed."""
        self._failures += 1
        if self._failures == 1:
            self._log.error("store_away", reason=str(error))

    def succeeded(self) -> None:
        """Notes that the store answered a decision."""
        if self._failures:
            failed, self._failures = self._failures, 0
            self._log.warning("store_back", failed_calls=failed)
