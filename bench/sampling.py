"""Measures all cases in interleaved rounds, so that a busy minute of the machine affects all of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Results
from bench.measure import Sample, measure
from bench.stores import Store
from bench.targets import Target
from bench.workloads import Case

_MAX_CALLS = 200_000


@dataclass(frozen=True)
class Pace:
    """How often and how long to measure.

    Args:
        rounds: number of rounds.
        seconds: approximate duration of each load.
        warm_up_calls: calls of the loads that warm up.
        warm_up_only: whether the warm-up is the only round, as in a smoke test.
    """

    rounds: int
    seconds: float
    warm_up_calls: int
    warm_up_only: bool = False


async def measure_rounds(
    targets: Mapping[str, Target],
    cases: Sequence[Case],
    store: Store,
    folder: Path,
    pace: Pace,
    *,
    progress: Callable[[str], None],
) -> Results:
    """Measures each case once per round, after a warm-up that also finds how many calls take `pace.seconds`.

    Every second round runs backwards, so that no target always follows the same other one.
    """
    await store.reset()
    calls, warm_up = {}, {}
    for case in cases:
        first = max(pace.warm_up_calls, 2 * case.concurrency.in_flight)
        sample = await measure(targets[case.target], case, first, folder)
        calls[case] = min(_MAX_CALLS, max(first, int(sample.rate * pace.seconds)))
        warm_up[case] = [sample]
    if pace.warm_up_only:
        return warm_up
    progress(f"warmed up; measuring {pace.rounds} rounds of {len(cases)} loads")
    results: dict[Case, list[Sample]] = {case: [] for case in cases}
    for number in range(pace.rounds):
        await store.reset()
        for case in cases if number % 2 == 0 else reversed(cases):
            results[case].append(await measure(targets[case.target], case, calls[case], folder))
        progress(f"finished round {number + 1} of {pace.rounds}")
    return results
