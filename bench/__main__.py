"""Entry point of `make bench`. bench/README.md explains the output."""

import asyncio
import sys

from bench import compare
from bench.errors import exit_status
from bench.h2load import ensure_installed
from bench.options import parse
from bench.run import run


def main() -> None:
    """Runs the bench."""
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


if __name__ == "__main__":
    sys.exit(exit_status(main))
