"""The complete run: starts the targets, measures them in rounds, prints the tables, stops the targets."""

import asyncio
import os
import platform
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import launch, memory, microbench, usage_memory
from bench.goals import Goal, goals_table, load_goals
from bench.options import TARGETS, Options
from bench.sampling import measure_rounds
from bench.stores import Store, installed, running_store
from bench.table import Table, load_table, markdown, plain, with_spread
from bench.targets import ECHO_OF, EXTERNAL, FAST, STORE_ECHO_OF, UNLIMITED, UNOBSERVED, Target
from bench.workloads import STREAMS, Case, Entry, Workload, cases

Put = Callable[[Table | str], None]
"""Prints a table or a text."""


def progress(text: str) -> None:
    """Reports progress on standard error, so that the tables on standard output can be redirected."""
    sys.stderr.write(f"bench: {text}\n")


def printer(*, markdown_tables: bool) -> Put:
    """Returns the function that prints tables, in Markdown or aligned."""
    render = markdown if markdown_tables else plain

    def put(item: Table | str) -> None:
        sys.stdout.write((item if isinstance(item, str) else render(item)) + "\n")
        sys.stdout.flush()

    return put


def cancel_on_signals() -> None:
    """Makes SIGTERM and SIGHUP cancel the current task, which then stops all processes that it started."""
    task = asyncio.current_task()
    if task is not None:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)


def machine(store: Store) -> str:
    """Date, machine, Python and store of this run."""
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    cpus = f"{os.cpu_count()} CPUs, {platform.machine()}"
    return f"{now}, {cpus}, Python {platform.python_version()}, {store.name}"


async def run(options: Options) -> None:
    """Prints each table as soon as it is complete."""
    cancel_on_signals()
    put = printer(markdown_tables=options.markdown)
    with TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        folder = Path(name)
        async with running_store(options.store) as store:
            put(machine(store) + "\n")
            goals = await _measure_targets(options, store, folder, put)
            progress("measuring start-up times")
            put(await _start_up_table(options, store, folder))
        progress("measuring the memory of the stores")
        table, memory_goals = await memory.store_table(installed(), options.users)
        put(table)
        usage, usage_goals = await usage_memory.usage_table(installed())
        put(usage)
        seconds = min(options.pace.seconds, 0.3)
        steps, step_goals = microbench.steps_table(times=options.pace.rounds, seconds=seconds)
        put(steps)
        put(goals_table([*goals, *memory_goals, *usage_goals, *step_goals]))


async def _measure_targets(options: Options, store: Store, folder: Path, put: Put) -> list[Goal]:
    """Starts all targets, measures them, and prints the tables of the loads and of the services' memory."""
    progress("starting all targets")
    async with AsyncExitStack() as stack:
        targets = await _start(options, store, folder, stack)
        plan = _plan(targets)
        results = await measure_rounds(targets, plan, store, folder, options.pace, progress=progress)
        put(load_table(results, Entry.DIRECT))
        put(load_table(results, Entry.ENVOY))
        progress(f"measuring the memory of each service with {options.users} users")
        services = [target for target in targets.values() if target.name in TARGETS.values()]
        table, memory_goals = await memory.service_table(services, options.users, options.apis, folder)
        put(table)
        return [*load_goals(results), *memory_goals]


async def _start(options: Options, store: Store, folder: Path, stack: AsyncExitStack) -> dict[str, Target]:
    """Starts all targets and returns them by name."""
    started: list[Target] = []
    start = stack.enter_async_context
    forward = await start(launch.backend(folder))
    for name in options.targets:
        if name == "front":
            service = await start(launch.service_inside(store.url, forward, folder))
            started.append(await start(launch.echo_inside(forward, folder)))
        else:
            alone = await start(launch.service(name, store.url, folder))
            service = await start(launch.front_envoy(alone, forward, folder))
            started.append(await start(launch.echo_server(name, None, folder)))
            store_echo = await start(launch.echo_server(name, store.url, folder))
            started.append(replace(store_echo, store_pid=store.pid))
        started.append(replace(service, store_pid=store.pid))
    if FAST in options.targets:
        started.append(replace(await start(launch.unobserved(store.url, folder)), store_pid=store.pid))
    started.append(await start(launch.front_envoy(None, forward, folder)))
    if options.external:
        started.append(options.external)
    return {target.name: target for target in started}


def _plan(targets: Mapping[str, Target]) -> list[Case]:
    """All cases to measure. The floors have one workload, services have all of them."""
    services = [name for name in [*TARGETS.values(), EXTERNAL] if name in targets]
    floors = [name for name in [*ECHO_OF.values(), *STORE_ECHO_OF.values(), UNLIMITED] if name in targets]

    def direct(names: list[str]) -> list[str]:
        return [name for name in names if targets[name].address]

    def front(names: list[str]) -> list[str]:
        return [name for name in names if targets[name].front]

    return [
        *cases(Entry.DIRECT, direct(services), direct(floors)),
        *[
            Case(Entry.DIRECT, workload, STREAMS, UNOBSERVED)
            for workload in Workload
            if UNOBSERVED in targets
        ],
        *cases(Entry.ENVOY, front(services), front(floors)),
    ]


async def _start_up_table(options: Options, store: Store, folder: Path) -> Table:
    """Starts each service alone, up to three times."""
    rows = []
    async with launch.backend(folder) as forward:
        for name in options.targets:
            took_s = []
            for _ in range(min(options.pace.rounds, 3)):
                if name == "front":
                    starting = launch.service_inside(store.url, forward, folder)
                else:
                    starting = launch.service(name, store.url, folder)
                async with starting as target:
                    took_s.append(target.start_s)
            rows.append([TARGETS[name], with_spread(took_s, 2)])
    return Table("Start-up time: seconds from process start to the first SERVING", ["target", "s"], rows)
