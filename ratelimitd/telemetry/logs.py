"""Log lines on standard error: JSON, or text for people. No value can break a line or control a terminal.

Messages of libraries become lines of the same form, so that a program can parse the whole log.
"""

import logging
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, TextIO

import structlog
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import ExcInfo, Processor

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.display import printable

LogFormat = Literal["auto", "json", "console"]


class _UnfailingLogger:
    """Writes lines to standard error. A line that cannot be written is lost, and nothing fails."""

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    debug = info = warning = error = msg


class _LibraryHandler(logging.Handler):
    """Writes what libraries log, at most six lines of each level a minute."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = BoundedLog("ratelimitd.libraries")

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the library gave arguments that do not fit its message
            message = str(record.msg)
        fields: dict[str, object] = {"library": record.name, "message": message}
        if record.exc_info and record.exc_info[0] is not None:
            fields["exc_info"] = record.exc_info
        if record.levelno >= logging.ERROR:
            self._log.error("library_error", **fields)
        else:
            self._log.warning("library_warning", **fields)


_LIBRARY_HANDLER = _LibraryHandler()

# Values of local variables may hold request headers and store URLs, so tracebacks leave them out.
_TRACEBACKS = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))


def configure_logs(level: str, form: LogFormat = "auto") -> None:
    """Makes all loggers write lines of at least `level`: debug, info, warning or error.

    The form `auto` is console on a terminal, else JSON. Only console lines on a terminal have colours, unless
    the environment has NO_COLOR or the terminal is `dumb`.
    """
    renderers: list[Processor] = (
        [_TRACEBACKS, structlog.processors.JSONRenderer()]
        if is_json(form)
        else [_console(colors=sys.stderr.isatty() and _wants_colors(os.environ))]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_: _UnfailingLogger(),
        cache_logger_on_first_use=False,
    )
    logging.getLogger().addHandler(_LIBRARY_HANDLER)
    logging.captureWarnings(True)  # noqa: FBT003 - the function takes no keyword


def is_json(form: LogFormat) -> bool:
    """Returns whether log lines of this form are JSON."""
    return form == "json" or (form == "auto" and not sys.stderr.isatty())


def _wants_colors(environ: Mapping[str, str]) -> bool:
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def _console(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=colors,
        repr_native_str=True,  # repr escapes every character that is not printable
        exception_formatter=_write_traceback,
    )


def _write_traceback(out: TextIO, exc_info: ExcInfo) -> None:
    lines = "".join(traceback.format_exception(*exc_info)).rstrip("\n").split("\n")
    out.write("".join(f"\n{printable(line)}" for line in lines))
