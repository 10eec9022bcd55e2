"""Report observers that fail, once each: a broken one must not fill the log at the rate of requests."""

import structlog

from ratelimitd.core.ports import Observer


class ObserverErrorLog:
    """Logs the first error of each observer, with its traceback. Use it as Decider's `on_observer_error`."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("ratelimitd.telemetry")
        self._failed: set[Observer] = set()

    def __call__(self, observer: Observer, error: Exception) -> None:
        """Logs the error unless this observer failed before."""
        if observer not in self._failed:
            self._failed.add(observer)
            self._log.error("observer_failed", observer=type(observer).__name__, exc_info=error)
