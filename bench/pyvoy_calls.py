"""Measures what a call through pyvoy costs each thread of its Envoy, and what the same call costs without it.

python -m bench.pyvoy_calls [OPTIONS]
"""

import argparse
import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import launch
from bench.errors import BenchError, exit_status
from bench.h2load import PROGRAM, ensure_installed
from bench.pyvoy_cases import (
    ASYNCIO,
    BODY_BYTES,
    CALLS,
    HOSTS,
    SECOND,
    SETTINGS,
    STANDARD,
    THREADS,
    WORKER,
    Case,
    Sample,
)
from bench.pyvoy_echo import LOOP, SOCKET
from bench.pyvoy_envoy import BY_SOCKET, DIRECT, PYVOY, config
from bench.pyvoy_tables import calls_table, settings_table, steps_table
from bench.run import cancel_on_signals, printer, progress
from bench.thread_usage import Usage, thread_usage
from ratelimitd.address import TcpAddress
from ratelimitd.process.child import child
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.process.loopback import LOOPBACK, free_port

_LEAST_CALLS = 1000
_ASYNCIO = "import asyncio\nnew_event_loop = asyncio.new_event_loop\n"
"""A module that replaces uvloop, which pyvoy imports."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parses the command line. Raises BenchError for invalid values."""
    parser = argparse.ArgumentParser(prog="python -m bench.pyvoy_calls", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="number of rounds (default 5)")
    add("--calls", type=int, default=12_000, help="calls of one load at 4 x 32 (default 12000)")
    add("--quick", action="store_true", help="smoke test: one short round without settings")
    add("--markdown", action="store_true", help="print tables in Markdown")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.calls < _LEAST_CALLS:
        raise BenchError(f"--rounds must be above 0, and --calls at least {_LEAST_CALLS}")
    if given.quick:
        given.rounds, given.calls = 1, 200
    return given


async def measured(options: argparse.Namespace) -> Mapping[Case, Sequence[Sample]]:
    """Measures all cases in interleaved rounds."""
    cancel_on_signals()
    names = [STANDARD] if options.quick else list(HOSTS)
    cases = [case for case in CALLS + SETTINGS if case.host in names]
    samples = defaultdict[Case, list[Sample]](list)
    with TemporaryDirectory(prefix="ratelimitd-bench-") as temporary:
        folder = Path(temporary)
        (folder / "body").write_bytes(bytes(BODY_BYTES))
        async with AsyncExitStack() as stack:
            hosts = {name: await stack.enter_async_context(_host(name, folder)) for name in names}
            for number in range(options.rounds):
                progress(f"round {number + 1} of {options.rounds}")
                for case in cases if number % 2 == 0 else reversed(cases):
                    samples[case].append(await _measure(case, *hosts[case.host], options.calls, folder))
    return samples


@asynccontextmanager
async def _host(name: str, folder: Path) -> AsyncIterator[tuple[int, Mapping[str, TcpAddress]]]:
    """Runs an Envoy. Yields its process, and the address of each listener."""
    addresses = {who: TcpAddress(LOOPBACK, free_port()) for who in (PYVOY, BY_SOCKET, DIRECT)}
    socket = f"ratelimitd-bench-{os.getpid()}-{addresses[PYVOY].port}"
    environ = {**launch.hosting_environ(""), **HOSTS[name], SOCKET: socket}
    if name == ASYNCIO:
        replaced = folder / "replaced"
        replaced.mkdir()
        (replaced / "uvloop.py").write_text(_ASYNCIO)
        environ["PYTHONPATH"] = f"{replaced}{os.pathsep}{environ['PYTHONPATH']}"
    file = folder / f"{addresses[PYVOY].port}.json"
    file.write_text(json.dumps(config(addresses, socket)))
    command = [envoy_binary(), "-c", str(file), "--disable-hot-restart", "--log-level", "error"]
    async with child("Envoy", [*command, "--concurrency", "1"], file.with_suffix(".log"), environ) as envoy:
        for address in addresses.values():
            await envoy.until(partial(launch.accepts, address))
        yield envoy.process.pid, addresses


async def _measure(
    case: Case, pid: int, addresses: Mapping[str, TcpAddress], calls: int, folder: Path
) -> Sample:
    """Makes the calls of a case, all of which must be answered with 200."""
    count = round(calls * case.shape.share)
    command = [PROGRAM, f"-n{count}", f"-c{case.shape.connections}", f"-m{case.shape.streams}"]
    command += ["-d", str(folder / "body")] if case.has_body else []
    before = _usage(pid)
    began_s = time.perf_counter()
    load = await asyncio.create_subprocess_exec(*command, f"http://{addresses[case.answerer]}/", stdout=PIPE)
    try:
        output, _ = await load.communicate()
    finally:
        if load.returncode is None:
            load.kill()
            await load.wait()
    took_s = time.perf_counter() - began_s
    if f"status codes: {count} 2xx" not in output.decode():
        raise BenchError(f"{case}: unexpected output of h2load: {output[-300:]!r}")
    threads = {name: usage.since(before[name], count) for name, usage in _usage(pid).items()}
    return Sample(count / took_s, threads)


def _usage(pid: int) -> Mapping[str, Usage]:
    """The usage of THREADS so far."""
    found = {name: Usage(0, 0) for name in THREADS}
    for thread, usage in thread_usage(pid):
        name = WORKER if thread.startswith("wrk:") else LOOP if thread == LOOP else SECOND
        found[name] = found[name].plus(usage)
    return found


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    options = parse(arguments)
    ensure_installed()
    put = printer(markdown_tables=options.markdown)
    samples = asyncio.run(measured(options))
    put(calls_table(samples))
    if not options.quick:
        put(settings_table(samples))
    put(steps_table(0.01 if options.quick else 1))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
