"""Measures what each step from an Envoy without a limit to the complete service inside it costs.

python -m bench.ladder [--settings] [OPTIONS]
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import httpx

from bench import hop_settings, launch, rungs
from bench.errors import BenchError, exit_status
from bench.front_envoy import HOT_PATH
from bench.h2load import ensure_installed
from bench.hop_settings import Setting
from bench.ladder_tables import rungs_table, settings_table
from bench.run import cancel_on_signals, machine, printer, progress
from bench.rungs import Rung
from bench.sampling import Pace, measure_rounds
from bench.stores import Store, installed, running_store
from bench.targets import Target
from bench.workloads import Case, Concurrency, Entry, Workload
from ratelimitd.address import TcpAddress
from ratelimitd.process.loopback import LOOPBACK, free_port

_T = TypeVar("_T")


@dataclass(frozen=True)
class Options:
    """The parsed command line.

    Args:
        pace: rounds and duration of the loads.
        rungs: the rungs that are measured.
        settings: the settings that are measured.
        connections: the numbers of connections.
        markdown: whether to print Markdown.
    """

    pace: Pace
    rungs: Sequence[Rung]
    settings: Sequence[Setting]
    connections: Sequence[int]
    markdown: bool


def parse(arguments: Sequence[str]) -> Options:
    """Parses the command line. Raises BenchError for invalid values."""
    parser = argparse.ArgumentParser(prog="python -m bench.ladder", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="number of rounds (default 5)")
    add("--seconds", type=float, default=1.2, help="approximate duration of one load (default 1.2)")
    add("--quick", action="store_true", help="smoke test: one short round, meaningless figures")
    add("--rungs", metavar="NAMES", help="measure these rungs only, comma-separated")
    add("--settings", metavar="NAMES", nargs="?", const="", help="measure settings: all, or these")
    add("--connections", metavar="NUMBERS", default="1,8,64", help="comma-separated (default 1,8,64)")
    add("--markdown", action="store_true", help="print tables in Markdown")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.seconds <= 0:
        raise BenchError("--rounds and --seconds must be above 0")
    if given.settings is None:
        settings: Sequence[Setting] = ()
        chosen = _chosen("--rungs", given.rungs, rungs.BY_NAME)
    elif given.rungs is None:
        settings = _chosen("--settings", given.settings, hop_settings.BY_NAME)
        chosen = [rungs.BY_NAME[rungs.FULL]]
    else:
        raise BenchError("--rungs and --settings exclude each other")
    return Options(
        pace=Pace(1, 0.05, 50, warm_up_only=True) if given.quick else Pace(given.rounds, given.seconds, 500),
        rungs=chosen,
        settings=settings,
        connections=_numbers(given.connections),
        markdown=given.markdown,
    )


def _chosen(option: str, names: str | None, known: Mapping[str, _T]) -> Sequence[_T]:
    """The values with these names; all of them without a name."""
    if not names:
        return list(known.values())
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise BenchError(f"{option}: unknown {', '.join(unknown)}; expected {', '.join(known)}")
    return [value for name, value in known.items() if name in wanted]


def _numbers(text: str) -> Sequence[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise BenchError(f"--connections {text}: expected numbers above 0, for example 1,8,64")
    return numbers


async def run(options: Options) -> None:
    """Measures, and prints a table for each number of connections."""
    cancel_on_signals()
    put = printer(markdown_tables=options.markdown)
    with TemporaryDirectory(prefix="ratelimitd-bench-") as temporary:
        folder = Path(temporary)
        async with running_store(installed()[0]) as store, AsyncExitStack() as stack:
            put(machine(store) + "\n")
            progress("starting all Envoys")
            targets = await _start(options, store, folder, stack)
            cases = [
                Case(Entry.ENVOY, Workload.MANY, Concurrency(connections), name)
                for connections in options.connections
                for name in targets
            ]
            results = await measure_rounds(targets, cases, store, folder, options.pace, progress=progress)
    for connections in options.connections:
        if options.settings:
            put(settings_table(results, Concurrency(connections), options.settings))
        else:
            put(rungs_table(results, Concurrency(connections), options.rungs))


async def _start(options: Options, store: Store, folder: Path, stack: AsyncExitStack) -> dict[str, Target]:
    """Starts one Envoy for each rung and each setting."""
    forward = await stack.enter_async_context(launch.backend(folder))
    wanted: Iterable[tuple[Rung, Setting | None]] = [
        *((rung, None) for rung in options.rungs),
        *((rungs.BY_NAME[rungs.FULL], setting) for setting in options.settings),
    ]
    targets = [
        await stack.enter_async_context(envoy(rung, setting, store, forward, folder))
        for rung, setting in wanted
    ]
    return {target.name: target for target in targets}


@asynccontextmanager
async def envoy(
    rung: Rung, setting: Setting | None, store: Store, forward: TcpAddress, folder: Path
) -> AsyncIterator[Target]:
    """Runs the Envoy of a rung, with or without a setting."""
    listener = TcpAddress(LOOPBACK, free_port())
    config, variables = rungs.front_of(rung, listener, forward)
    environ = {**launch.hosting_environ(store.url), **variables}
    if setting is None:
        name, concurrency = rung.name, 2
    else:
        name, concurrency = setting.name, setting.concurrency
        setting.change(rungs.parts_of(config))
    async with launch.running_front(
        name, json.dumps(config), listener, folder, environ=environ, concurrency=concurrency
    ) as front:
        if setting is None:
            await _check_answer(rung, listener)
        yield Target(name, None, store_pid=store.pid if rung.stored else None, front=front)


async def _check_answer(rung: Rung, front: TcpAddress) -> None:
    """Raises BenchError if the fields of a decision are missing, or are there although nothing sends them."""
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.get(f"http://{front}{HOT_PATH}", headers={"x-user-id": "first"})
    if ("ratelimit" in response.headers) is not rung.answers:
        raise BenchError(f"rung {rung.name}: unexpected headers {dict(response.headers)}")


def main() -> None:
    """Runs the command."""
    options = parse(sys.argv[1:])
    ensure_installed()
    asyncio.run(run(options))


if __name__ == "__main__":
    sys.exit(exit_status(main))
