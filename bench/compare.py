"""Compares `fast` of this checkout with `fast` of another one, in the same rounds and on the same store."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import launch
from bench.figures import Results, column, ratios
from bench.options import Options
from bench.run import cancel_on_signals, machine, printer, progress
from bench.sampling import measure_rounds
from bench.stores import running_store
from bench.table import Table, load_table, with_spread
from bench.targets import FAST, OTHER_CHECKOUT
from bench.workloads import SINGLE, STREAMS, Case, Entry, Workload

CASES = [
    Case(Entry.DIRECT, workload, concurrency, target)
    for workload in Workload
    for concurrency in (SINGLE, STREAMS)
    for target in (FAST, OTHER_CHECKOUT)
]
_FIGURES = {"service us": "service_us", "store us": "store_us", "mean us": "mean_us", "decisions/s": "rate"}


async def run(options: Options, checkout: Path) -> None:
    """Starts both services, measures them in interleaved rounds, and prints figures and ratios."""
    cancel_on_signals()
    put = printer(markdown_tables=options.markdown)
    with TemporaryDirectory(prefix="ratelimitd-bench-") as name:
        folder = Path(name)
        async with (
            running_store(options.store) as store,
            launch.service(FAST, store.url, folder) as ours,
            launch.service(FAST, store.url, folder, checkout=checkout, name=OTHER_CHECKOUT) as other,
        ):
            put(f"{machine(store)}\nother checkout: {checkout}\n")
            targets = {target.name: replace(target, store_pid=store.pid) for target in (ours, other)}
            results = await measure_rounds(targets, CASES, store, folder, options.pace, progress=progress)
    put(load_table(results, Entry.DIRECT))
    put(ratio_table(results))


def ratio_table(results: Results) -> Table:
    """This checkout divided by the other one, by workload and concurrency.

    The last column compares the minima, which other load on the machine disturbs least.
    """
    rows = []
    for case in results:
        if case.target == FAST:
            other = replace(case, target=OTHER_CHECKOUT)
            pairs = [
                (column(results, case, name), column(results, other, name)) for name in _FIGURES.values()
            ]
            cells = [with_spread(ratios(ours, others), 3) for ours, others in pairs]
            least, other_least = (min(values) for values in pairs[0])
            rows.append([case.workload, str(case.concurrency), *cells, f"{least / other_least:.3f}"])
    columns = ["workload", "concurrency", *_FIGURES, "minimum service us"]
    return Table("This checkout / other checkout: median (minimum..maximum) of the rounds", columns, rows)
