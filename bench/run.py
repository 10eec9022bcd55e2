"""The run: starts everything, loads it in rounds, prints tables. What it started has ended at its end."""

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

from bench import forms, memory, micro
from bench.forms import ASKING_OF, FLOOR_OF, UNLIMITED, YOURS, Form
from bench.goals import Goal, goals_table, load_goals
from bench.options import NAMES, Options
from bench.rounds import rounds
from bench.stores import Store, installed, running_store
from bench.table import Table, load_table, markdown, plain, shown
from bench.works import Cell, Way, cells


def tell(text: str) -> None:
    """Progress goes to the standard error, so that tables can be redirected."""
    sys.stderr.write(f"bench: {text}\n")


async def run(options: Options) -> None:
    """Prints a table as soon as it is complete. SIGTERM and SIGHUP end the run, and what it started."""
    me = asyncio.current_task()
    if me is not None:
        for signum in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(signum, me.cancel)
    show = markdown if options.markdown else plain

    def put(table: Table) -> None:
        sys.stdout.write(show(table) + "\n")
        sys.stdout.flush()

    with TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        folder = Path(name)
        async with running_store(options.store) as store:
            sys.stdout.write(_machine(store) + "\n\n")
            goals = await _loads(options, store, folder, put)
            tell("start-up times")
            put(await _starts(options, store, folder))
        tell("memory of the stores")
        table, more = await memory.store_table(installed(), options.users)
        put(table)
        steps, most = micro.micro_table(times=options.pace.times, seconds=min(options.pace.seconds, 0.3))
        put(steps)
        put(goals_table([*goals, *more, *most]))


def _machine(store: Store) -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    cpus = f"{os.cpu_count()} CPUs, {platform.machine()}"
    return f"{now}, {cpus}, Python {platform.python_version()}, {store.name}"


async def _loads(options: Options, store: Store, folder: Path, put: Callable[[Table], None]) -> list[Goal]:
    """Starts the forms, loads them, and puts the tables about it."""
    tell("starting every form")
    async with AsyncExitStack() as stack:
        up = await _started(options, store, folder, stack)
        plan = _plan(up)
        results = await rounds(up, plan, store, folder, options.pace, tell=tell)
        put(load_table(results, Way.DIRECT))
        put(load_table(results, Way.FRONT))
        tell(f"memory of each form, with {options.users} users")
        ours = [form for form in up.values() if form.name in NAMES.values()]
        put(await memory.service_table(ours, options.users, folder))
        return load_goals(results)


async def _started(options: Options, store: Store, folder: Path, stack: AsyncExitStack) -> dict[str, Form]:
    """Everything that will be under load, by its name."""
    up: list[Form] = []
    forward = await stack.enter_async_context(forms.backend(folder))
    for name in options.forms:
        if name == "front":
            form = await stack.enter_async_context(forms.inside(store.url, forward, folder))
            up.append(await stack.enter_async_context(forms.floor_inside(forward, folder)))
        else:
            alone = await stack.enter_async_context(forms.service(name, store.url, folder))
            form = await stack.enter_async_context(forms.front(alone, forward, folder))
            up.append(await stack.enter_async_context(forms.floor(name, None, folder)))
            asking = await stack.enter_async_context(forms.floor(name, store.url, folder))
            up.append(replace(asking, store=store.pid))
        up.append(replace(form, store=store.pid))
    up.append(await stack.enter_async_context(forms.front(None, forward, folder)))
    if options.other:
        up.append(options.other)
    return {form.name: form for form in up}


def _plan(up: Mapping[str, Form]) -> list[Cell]:
    """What to load: a floor of ours has one kind of work, all else has every kind."""
    order = [*NAMES.values(), YOURS]
    direct = [name for name in order if name in up and up[name].address]
    front = [name for name in order if name in up and up[name].front]
    echoes = [name for name in [*FLOOR_OF.values(), *ASKING_OF.values()] if name in up]
    direct_floors = [name for name in echoes if up[name].address]
    front_floors = [name for name in [*echoes, UNLIMITED] if up[name].front]
    return [*cells(Way.DIRECT, direct, direct_floors), *cells(Way.FRONT, front, front_floors)]


async def _starts(options: Options, store: Store, folder: Path) -> Table:
    """Starts each form alone, again and again."""
    rows = []
    async with forms.backend(folder) as forward:
        for name in options.forms:
            took_s = []
            for _ in range(min(options.pace.times, 3)):
                if name == "front":
                    starting = forms.inside(store.url, forward, folder)
                else:
                    starting = forms.service(name, store.url, folder)
                async with starting as form:
                    took_s.append(form.start_s)
            rows.append([NAMES[name], shown(took_s, 2)])
    return Table("Start-up: seconds from process start to the first SERVING", ["form", "s"], rows)
