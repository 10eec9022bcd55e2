"""Entry point of `make fuzz`: attacks a service with each transport, and prints what a user noticed."""

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from fuzz.run import fuzzed
from ratelimitd.errors import RatelimitdError

TRANSPORTS = ("grpcio", "fast")
MESSAGES = 1_000_000
LEAST_MESSAGES = 1000
"""Fewer messages are read before the service has filled its caches."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; a mistake ends the program with a sentence and status 2."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=MESSAGES, help="for each transport")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 10**9, help="repeats the messages of a run"
    )
    parser.add_argument(
        "--transport", action="append", choices=TRANSPORTS, help="may be given twice; default: both"
    )
    parser.add_argument(
        "--no-timing", action="store_true", help="report a stall, and refused calls, but not as a fault"
    )
    options = parser.parse_args(arguments)
    if options.messages < LEAST_MESSAGES:
        parser.error(f"--messages {options.messages}: expected at least {LEAST_MESSAGES}")
    return options


def _print(*lines: str) -> None:
    print("\n".join(lines), flush=True)  # noqa: T201 - the output of the command


def _progress(transport: str, messages: int) -> None:
    print(f"{transport}: {messages:,} messages", file=sys.stderr, flush=True)  # noqa: T201 - the same


async def main(options: argparse.Namespace) -> int:
    """Attacks each transport; returns the exit status: 1 if there was a fault."""
    _print(f"seed {options.seed}; repeat with --seed {options.seed}")
    folder, failed = Path(tempfile.mkdtemp(prefix="ratelimitd-fuzz-")), False
    try:
        for transport in options.transport or TRANSPORTS:
            report = partial(_progress, transport)
            outcome = await fuzzed(transport, options.messages, options.seed, folder, on_progress=report)
            faults = outcome.faults(timing=not options.no_timing)
            _print(*outcome.lines(), *(f"  fault: {one}" for one in faults or ["none"]))
            failed |= bool(faults)
    finally:
        if failed:
            _print(f"the log and the last messages are in {folder}")
        else:
            shutil.rmtree(folder)
    return int(failed)


async def _until_signal(options: argparse.Namespace) -> int:
    """Runs `main`. SIGTERM and SIGHUP cancel it, so that every process that it started ends."""
    running = asyncio.ensure_future(main(options))
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    return await running


if __name__ == "__main__":
    try:
        raise SystemExit(asyncio.run(_until_signal(parse(sys.argv[1:]))))
    except (BenchError, RatelimitdError) as error:
        raise SystemExit(f"fuzz: {error}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(130) from None
