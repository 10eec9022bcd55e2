"""Writes the messages of OpenTelemetry as log lines of ours, a few per minute, instead of plain text."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ratelimitd.bounded_log import BoundedLog

MAX_SHOWN = 300
"""Characters of a message that are logged."""


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = BoundedLog("ratelimitd.traces")

    def emit(self, record: logging.LogRecord) -> None:
        """Logs a message, and the exception that belongs to it without its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        text = record.getMessage() if error is None else f"{record.getMessage()} {error}"
        self._log.warning("opentelemetry", message=text[:MAX_SHOWN])


@contextmanager
def messages_in_our_log() -> Iterator[None]:
    """Logs the warnings of OpenTelemetry until the end of the block. Later ones are dropped."""
    logger = logging.getLogger("opentelemetry")
    handler = _Handler()
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        # A thread that still exports must not write lines while the process ends.
        logger.addHandler(logging.NullHandler())
        logger.removeHandler(handler)
