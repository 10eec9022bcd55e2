"""Log lines on standard error: JSON, or coloured text on a terminal."""

import logging
import sys
from contextlib import suppress

import structlog
from structlog.tracebacks import ExceptionDictTransformer


class _UnfailingLogger:
    """Writes lines to standard error. A line that cannot be written is lost, and nothing fails."""

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = msg


# Values of local variables may hold request headers and store URLs, so tracebacks leave them out.
_TRACEBACKS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def configure_logs(level: str) -> None:
    """Makes all structlog loggers write lines of at least `level`: debug, info, warning or error."""
    on_terminal = sys.stderr.isatty()
    plain = structlog.dev.plain_traceback
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=plain)
        if on_terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if on_terminal else [_TRACEBACKS]),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _UnfailingLogger(),
        cache_logger_on_first_use=False,
    )
