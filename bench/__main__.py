"""`make bench`: from the start of the stores to the last table. bench/README.md says how to read them."""

import asyncio
import sys

from bench.h2load import ensure_installed
from bench.http2 import LoadError
from bench.options import parse
from bench.run import run
from ratelimitd.errors import RatelimitdError

STOPPED = 130
"""The exit status of a run that was stopped, as a shell has it."""


def main() -> int:
    """The exit status."""
    try:
        options = parse(sys.argv[1:])
        ensure_installed()
        asyncio.run(run(options))
    except (LoadError, RatelimitdError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("bench: stopped; nothing is left running\n")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
