"""The tables of `pyvoy_calls`."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median

import uvloop

from bench.figures import ratios
from bench.pyvoy_cases import BODY_BYTES, CALLS, SETTINGS, STANDARD, THREADS, Case, Sample
from bench.pyvoy_envoy import PYVOY
from bench.table import Table
from bench.task_cost import STEPS, step_us

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def calls_table(samples: Mapping[Case, Sequence[Sample]]) -> Table:
    """Figures of the standard host: medians of the rounds."""
    rows = []
    for case in CALLS:
        body = f"{BODY_BYTES} bytes" if case.has_body else "none"
        pyvoy = _totals(samples[case._replace(answerer=PYVOY)])
        share = median(ratios(_totals(samples[case]), pyvoy))
        rates = median(sample.rate for sample in samples[case])
        usages = [[sample.threads[name] for sample in samples[case]] for name in THREADS]
        cpu = [f"{median(usage.cpu_us for usage in each):.1f}" for each in usages]
        switches = [f"{median(usage.switches for usage in each):.2f}" for each in usages]
        rows.append([str(case.shape), case.answerer, body, f"{rates:.0f}", *cpu, f"{share:.2f}", *switches])
    named = [f"{what} {name}" for what in ("us", "switches") for name in THREADS]
    columns = ["load", "answered by", "body", "calls/s", *named[:3], "us / pyvoy", *named[3:]]
    return Table("A call: CPU and context switches of each thread, medians", columns, rows)


def settings_table(samples: Mapping[Case, Sequence[Sample]]) -> Table:
    """Ratios to the standard host, of the minima and by round: below 1, the setting saves CPU."""
    rows = []
    for case in SETTINGS:
        standard, changed = samples[case._replace(host=STANDARD)], samples[case]
        cpu = median(ratios(_totals(changed), _totals(standard)))
        least = min(_totals(changed)) / min(_totals(standard))
        rate = median(ratios([one.rate for one in changed], [one.rate for one in standard]))
        rows.append([str(case.shape), case.host, f"{least:.2f}", f"{cpu:.2f}", f"{rate:.2f}"])
    columns = ["load", "setting", "CPU: minimum", "median", "calls/s"]
    return Table("Settings: ratios to the standard host, calls with a body", columns, rows)


def steps_table(seconds: float) -> Table:
    """The microbenchmark, of which each step runs for so long."""
    rows = [
        [step, *(f"{step_us(new_loop, step, seconds):.2f}" for new_loop in LOOPS.values())] for step in STEPS
    ]
    return Table("What pyvoy runs around the application: us per call", ["step", *LOOPS], rows)


def _totals(samples: Sequence[Sample]) -> list[float]:
    """CPU of all threads per call, by round."""
    return [sum(usage.cpu_us for usage in sample.threads.values()) for sample in samples]
