"""The tables of the ladder.

Other load on the machine disturbs a minimum least. Differences and ratios are also computed round by round,
so that slow minutes cancel out.
"""

from collections.abc import Sequence
from statistics import median

from bench.figures import Results, column, excess, ratios
from bench.hop_settings import Setting
from bench.rungs import FULL, Rung
from bench.table import Table, with_spread
from bench.workloads import Case, Concurrency, Entry, Workload


def rungs_table(results: Results, concurrency: Concurrency, rungs: Sequence[Rung]) -> Table:
    """One row per rung. A step is the difference from the rung above; the second one is a median."""
    rows = []
    for rung in rungs:
        cpu, above = _cpu_us(results, concurrency, rung.name), _cpu_us(results, concurrency, rung.above)
        step = (
            [f"{min(cpu) - min(above):+.0f}", f"{median(excess(cpu, above)):+.0f}"] if above else ["-", "-"]
        )
        rows.append([rung.name, rung.adds, *_figures(results, concurrency, rung.name), *step])
    columns = ["rung", "adds", *_FIGURES, "step: minimum", "median"]
    return Table(_title("The ladder", concurrency), columns, rows)


def settings_table(results: Results, concurrency: Concurrency, settings: Sequence[Setting]) -> Table:
    """One row per setting, after a row for the rung that they change. Below 1, the setting saves CPU."""
    base = _cpu_us(results, concurrency, FULL)
    rows = [[f"rung {FULL}", "", *_figures(results, concurrency, FULL), "", ""]]
    for setting in settings:
        cpu = _cpu_us(results, concurrency, setting.name)
        ratio = [f"{min(cpu) / min(base):.3f}", f"{median(ratios(cpu, base)):.3f}"]
        rows.append([setting.name, setting.text, *_figures(results, concurrency, setting.name), *ratio])
    columns = ["setting", "difference", *_FIGURES, "/ rung: minimum", "median"]
    return Table(_title("Settings", concurrency), columns, rows)


_FIGURES = ("requests/s", "Redis us", "CPU us: minimum", "median")


def _title(what: str, concurrency: Concurrency) -> str:
    return f"{what}, connections: {concurrency}; CPU of Envoy and Redis per request"


def _figures(results: Results, concurrency: Concurrency, name: str) -> list[str]:
    case, cpu = _case(concurrency, name), _cpu_us(results, concurrency, name)
    store = column(results, case, "store_us")
    return [
        with_spread(column(results, case, "rate")),
        f"{min(store):.0f}" if store else "-",
        f"{min(cpu):.0f}",
        f"{median(cpu):.0f}",
    ]


def _case(concurrency: Concurrency, name: str) -> Case:
    return Case(Entry.ENVOY, Workload.MANY, concurrency, name)


def _cpu_us(results: Results, concurrency: Concurrency, name: str) -> list[float]:
    """The CPU of Envoy and of the store per request, by round. Empty if the target was not measured."""
    samples = results.get(_case(concurrency, name), ())
    return [(sample.envoy_us or 0) + (sample.store_us or 0) for sample in samples]
