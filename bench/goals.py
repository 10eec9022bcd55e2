"""The performance goals of the project, for 2 CPUs that also run the load and the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.figures import Results, column, excess, ratios
from bench.table import Table, with_spread
from bench.targets import ECHO_OF, FAST, GRPCIO, INSIDE, STORE_ECHO_OF, UNLIMITED, UNOBSERVED
from bench.workloads import SINGLE, SIXTY_FOUR, STREAMS, Case, Concurrency, Entry, Workload

_STORE_ECHO = "for comparison: an echo that calls the store"
_INSIDE = "inside the front Envoy, requests/s at 64 connections"


@dataclass(frozen=True)
class Goal:
    """A bound on the median of `measured`, which holds one value per round or is empty if not measured."""

    what: str
    bound: float
    measured: Sequence[float]
    at_least: bool = False
    digits: int = 2

    def row(self) -> list[str]:
        """The row of the goals table."""
        sign = "at least" if self.at_least else "at most"
        return [self.what, f"{sign} {self.bound:g}", with_spread(self.measured, self.digits), self.verdict()]

    def verdict(self) -> str:
        """`yes` or `no`, or a dash if nothing was measured."""
        if not self.measured:
            return "-"
        value = median(self.measured)
        return "yes" if (value >= self.bound if self.at_least else value <= self.bound) else "no"


def load_goals(results: Results) -> list[Goal]:
    """The goals that the loads are checked against."""
    return [
        *_cpu_goals(results),
        *observation_goals(results),
        *_latency_goals(results),
        *_inside_goals(results),
    ]


def _direct(
    results: Results,
    name: str,
    target: str,
    workload: Workload = Workload.MANY,
    concurrency: Concurrency = STREAMS,
) -> list[float]:
    return column(results, Case(Entry.DIRECT, workload, concurrency, target), name)


def _cpu_goals(results: Results) -> list[Goal]:
    def cpu(target: str, workload: Workload = Workload.MANY) -> list[float]:
        return _direct(results, "service_us", target, workload)

    def store(workload: Workload) -> list[float]:
        return _direct(results, "store_us", FAST, workload)

    echo, grpc_echo = cpu(ECHO_OF[FAST]), cpu(ECHO_OF[GRPCIO])
    above_echo = excess(cpu(GRPCIO), grpc_echo, 1.15)
    store_echo_above = excess(cpu(STORE_ECHO_OF[GRPCIO]), grpc_echo, 1.15)
    grpcio = "grpcio, CPU of an allowed decision at 4 x 32 minus 1.15 x echo, us"
    return [
        Goal("fast, CPU of an allowed decision at 4 x 32 / echo", 2.2, ratios(cpu(FAST), echo)),
        Goal(_STORE_ECHO, 2.2, ratios(cpu(STORE_ECHO_OF[FAST]), echo)),
        Goal("fast, CPU of a hot denial at 4 x 32 / echo", 1.5, ratios(cpu(FAST, Workload.HOT), echo)),
        Goal(grpcio, 60, above_echo, digits=0),
        Goal(_STORE_ECHO, 60, store_echo_above, digits=0),
        Goal("store, CPU of an allowed decision at 4 x 32, us", 12, store(Workload.MANY), digits=1),
        Goal("store, CPU of a hot denial at 4 x 32, us", 0.1, store(Workload.HOT)),
    ]


def observation_goals(results: Results) -> list[Goal]:
    """What may be added by metrics and usage counts, 1.5 us, and by top users, 0.5 us."""
    goals = []
    for workload in Workload:
        observed, floor = (_direct(results, "service_us", target, workload) for target in (FAST, UNOBSERVED))
        what = f"fast, CPU that observers add at 4 x 32, {workload}, us"
        goals.append(Goal(what, 2, excess(observed, floor)))
    return goals


def _latency_goals(results: Results) -> list[Goal]:
    fast, store_echo, echo = (
        _direct(results, "mean_us", target, concurrency=SINGLE)
        for target in (FAST, STORE_ECHO_OF[FAST], ECHO_OF[FAST])
    )
    what = "fast, mean latency with one request in flight minus echo, us"
    return [
        Goal(what, 120, excess(fast, echo), digits=0),
        Goal(_STORE_ECHO, 120, excess(store_echo, echo), digits=0),
    ]


def _inside_goals(results: Results) -> list[Goal]:
    inside, echo, fast, unlimited = (
        column(results, Case(Entry.ENVOY, Workload.MANY, SIXTY_FOUR, target), "rate")
        for target in (INSIDE, ECHO_OF[INSIDE], FAST, UNLIMITED)
    )
    echo_goal = "for comparison: an echo inside the front Envoy"
    return [
        Goal(f"{_INSIDE} / no limit", 0.45, ratios(inside, unlimited), at_least=True),
        Goal(echo_goal, 0.45, ratios(echo, unlimited), at_least=True),
        Goal(f"{_INSIDE} / fast in its own process", 1, ratios(inside, fast), at_least=True),
    ]


def goals_table(goals: Sequence[Goal]) -> Table:
    """The goals, the measured values and whether they are met."""
    return Table("Goals", ["goal", "bound", "measured", "met"], [goal.row() for goal in goals])
