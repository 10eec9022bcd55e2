"""The error of the bench, and what a command does with it."""

import asyncio
import sys
from collections.abc import Callable

from ratelimitd.errors import RatelimitdError

STOPPED = 130
"""Exit status after SIGINT, as shells define it."""


class BenchError(Exception):
    """The bench cannot run, or a load failed and its figures would be worthless."""


def exit_status(command: Callable[[], None]) -> int:
    """Runs a command of the bench. Returns its exit status, and reports an error as one sentence."""
    try:
        command()
    except (BenchError, RatelimitdError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("bench: stopped; all processes that it started have ended\n")
        return STOPPED
    return 0
