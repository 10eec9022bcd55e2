"""Reports the error that ends a server as a log line, if the log is JSON by setting."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog
import typer

from ratelimitd.cli.exits import Exit
from ratelimitd.errors import RatelimitdError
from ratelimitd.settings import env_name
from ratelimitd.telemetry.logs import configure_logs


@contextmanager
def logged_as_json(flags: Mapping[str, str | None]) -> Iterator[None]:
    """Logs errors of the block, and ends the command with status 1, if the form `json` was chosen.

    Otherwise they are raised, so that people get a line of text. The error may be about the settings, so this
    reads the chosen form itself.

    Args:
        flags: the options of the command.
    """
    chosen = flags.get("log_format") or os.environ.get(env_name("log_format"), "")
    try:
        yield
    except Exception as error:
        if chosen.lower() != "json":
            raise
        configure_logs("error", "json")
        log = structlog.get_logger("ratelimitd")
        log.exception("failed", reason=str(error), exc_info=not isinstance(error, RatelimitdError))
        raise typer.Exit(Exit.FAILED) from error
