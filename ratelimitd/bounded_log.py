"""Log events that may repeat as often as requests: a few lines per minute, with a count of the rest."""

import time
from collections.abc import Callable
from typing import Literal

import structlog

LINES_PER_MINUTE = 6
"""Lines of one event per minute, at most: enough to see a fault change, too few to fill a disk."""

WINDOW_S = 60.0


class BoundedLog:
    """A logger with a limit for each event.

    The first lines of a minute are written. Later ones are counted, and the next line that is written has the
    count in the field `suppressed`. A minute begins with the first line of the event.

    Args:
        name: name of the structlog logger.
        lines_per_minute: lines of one event per minute, at most.
        now_s: a monotonic clock, in seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        lines_per_minute: int = LINES_PER_MINUTE,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = structlog.get_logger(name)
        self._lines_per_minute = lines_per_minute
        self._now_s = now_s
        self._events: dict[str, _Window] = {}

    def info(self, event: str, **fields: object) -> bool:
        """Writes a line of level info, or counts it. Returns whether it was written."""
        return self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> bool:
        """Writes a line of level warning, or counts it. Returns whether it was written."""
        return self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> bool:
        """Writes a line of level error, or counts it. Returns whether it was written."""
        return self._write("error", event, fields)

    def exception(self, event: str, **fields: object) -> bool:
        """Like `error`, with the traceback of the exception that is being handled."""
        return self._write("error", event, {**fields, "exc_info": True})

    def _write(
        self, level: Literal["info", "warning", "error"], event: str, fields: dict[str, object]
    ) -> bool:
        now_s = self._now_s()
        window = self._events.setdefault(event, _Window(now_s))
        if now_s - window.began_s >= WINDOW_S:
            window.began_s, window.lines = now_s, 0
        if window.lines >= self._lines_per_minute:
            window.suppressed += 1
            return False
        window.lines += 1
        if window.suppressed:
            fields = {**fields, "suppressed": window.suppressed}
            window.suppressed = 0
        getattr(self._log, level)(event, **fields)
        return True


class FailureLog:
    """Logs failures of calls that are repeated: once until the next success, and at most once a minute.

    A store that fails at times lets such a call fail and work in turn. Failures that get no line because of
    the minute are counted, and the next line has the count in the field `suppressed`.

    Args:
        name: name of the structlog logger.
        now_s: a monotonic clock, in seconds.
    """

    def __init__(self, name: str, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._bounded_log = BoundedLog(name, lines_per_minute=1, now_s=now_s)
        self._logged: set[str] = set()

    def warning(self, event: str, **fields: object) -> None:
        """Notes a failure of the call that this event stands for."""
        if event not in self._logged and self._bounded_log.warning(event, **fields):
            self._logged.add(event)

    def worked(self, event: str) -> None:
        """Notes a success of the call that this event stands for."""
        self._logged.discard(event)


class _Window:
    """The minute of one event."""

    def __init__(self, began_s: float) -> None:
        self.began_s = began_s
        self.lines = 0
        self.suppressed = 0
