"""Log lines on standard error: JSON for machines, colours when a person is watching."""

import logging
import sys

import structlog

LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str) -> None:
    """Every structlog logger of the process writes from `level` (one of LEVELS) upwards."""
    watched = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if watched else [structlog.processors.dict_tracebacks]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
