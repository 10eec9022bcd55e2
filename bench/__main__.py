"""Entry point of `make bench`. bench/README.md explains the output."""

import asyncio
import sys

from bench import compare
from bench.errors import BenchError
from bench.h2load import ensure_installed
from bench.options import parse
from bench.run import run
from ratelimitd.errors import RatelimitdError

STOPPED = 130
"""Exit status after SIGINT, as shells define it."""


def main() -> int:
    """Runs the bench and returns the exit status."""
    try:
        options = parse(sys.argv[1:])
        if options.observers:
            asyncio.run(compare.observers(options))
        elif options.leases:
            asyncio.run(compare.leases(options))
        elif options.against is not None:
            asyncio.run(compare.run(options, options.against))
        else:
            ensure_installed()
            asyncio.run(run(options))
    except (BenchError, RatelimitdError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("bench: stopped; all processes that it started have ended\n")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
