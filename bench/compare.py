"""Compares two services of the transport `fast`, in the same rounds and on the same store."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import launch
from bench.figures import Results, column, ratios
from bench.goals import goals_table, observation_goals
from bench.options import Options
from bench.run import Put, cancel_on_signals, machine, printer, progress
from bench.sampling import measure_rounds
from bench.stores import running_store
from bench.table import Table, load_table, with_spread
from bench.targets import FAST, LEASING, OTHER_CHECKOUT, UNOBSERVED, Target
from bench.workloads import SINGLE, STREAMS, Case, Concurrency, Entry, Workload

_FIGURES = {"service us": "service_us", "store us": "store_us", "mean us": "mean_us", "decisions/s": "rate"}

_Launch = Callable[[str, Path], AbstractAsyncContextManager[Target]]
"""Starts a service over the store with this URL, with a folder for its files."""


async def run(options: Options, checkout: Path) -> None:
    """Compares this checkout with another one."""

    def other(store_url: str, folder: Path) -> AbstractAsyncContextManager[Target]:
        return launch.service(FAST, store_url, folder, checkout=checkout, name=OTHER_CHECKOUT)

    put = printer(markdown_tables=options.markdown)
    put(f"other checkout: {checkout}\n")
    results = await _measured(options, put, other, OTHER_CHECKOUT, (SINGLE, STREAMS))
    put(ratio_table(results, OTHER_CHECKOUT, "This checkout / other checkout"))


async def observers(options: Options) -> None:
    """Compares the service with one that nothing observes."""
    put = printer(markdown_tables=options.markdown)
    results = await _measured(options, put, launch.unobserved, UNOBSERVED, (STREAMS,))
    put(ratio_table(results, UNOBSERVED, "Observed / not observed"))
    put(goals_table(observation_goals(results)))


async def leases(options: Options) -> None:
    """Compares the service with one that leases tokens of the global bucket."""
    put = printer(markdown_tables=options.markdown)
    results = await _measured(options, put, launch.leasing, LEASING, (SINGLE, STREAMS))
    put(ratio_table(results, LEASING, "Without leases / with leases"))


async def _measured(
    options: Options, put: Put, start_other: _Launch, name: str, concurrencies: Sequence[Concurrency]
) -> Results:
    """Starts both services, measures them in interleaved rounds, and prints the figures."""
    cancel_on_signals()
    cases = [
        Case(Entry.DIRECT, workload, concurrency, target)
        for workload in Workload
        for concurrency in concurrencies
        for target in (FAST, name)
    ]
    with TemporaryDirectory(prefix="ratelimitd-bench-") as temporary:
        folder = Path(temporary)
        async with (
            running_store(options.store) as store,
            launch.service(FAST, store.url, folder) as ours,
            start_other(store.url, folder) as other,
        ):
            put(f"{machine(store)}\n")
            targets = {target.name: replace(target, store_pid=store.pid) for target in (ours, other)}
            results = await measure_rounds(targets, cases, store, folder, options.pace, progress=progress)
    put(load_table(results, Entry.DIRECT))
    return results


def ratio_table(results: Results, other_target: str, title: str) -> Table:
    """Figures of `fast` divided by the figures of the other target, by workload and concurrency.

    The last column compares the minima, which other load on the machine disturbs least.
    """
    rows = []
    for case in results:
        if case.target == FAST:
            other = replace(case, target=other_target)
            pairs = [
                (column(results, case, name), column(results, other, name)) for name in _FIGURES.values()
            ]
            cells = [with_spread(ratios(ours, others), 3) for ours, others in pairs]
            least, other_least = (min(values) for values in pairs[0])
            rows.append([case.workload, str(case.concurrency), *cells, f"{least / other_least:.3f}"])
    columns = ["workload", "concurrency", *_FIGURES, "minimum service us"]
    return Table(f"{title}: median (minimum..maximum) of the rounds", columns, rows)
