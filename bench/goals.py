"""What the project set out to reach on 2 cores, with load and store beside the service, and what it got.

Compared with a floor, a figure is compared round by round, so a slow minute of the machine cancels out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.forms import ASKING_OF, FAST, FLOOR_OF, GRPCIO, INSIDE, UNLIMITED
from bench.rounds import Results, column, ratios
from bench.table import Table, shown
from bench.works import MANY_CONNECTIONS, ONE, STREAMS, Cell, Point, Way, Work


@dataclass(frozen=True)
class Goal:
    """A bound on the median of `measured`, which has a value a round, and none where it was not measured."""

    what: str
    bound: float
    measured: Sequence[float]
    at_least: bool = False
    digits: int = 2

    def row(self) -> list[str]:
        """The goal as the table shows it."""
        sign = "at least" if self.at_least else "at most"
        return [self.what, f"{sign} {self.bound:g}", shown(self.measured, self.digits), self.verdict()]

    def verdict(self) -> str:
        """`yes` or `no`, or a dash where nothing was measured."""
        if not self.measured:
            return "-"
        value = median(self.measured)
        return "yes" if (value >= self.bound if self.at_least else value <= self.bound) else "no"


def _direct(results: Results) -> Callable[[str, str, Work, Point], list[float]]:
    return lambda name, form, work, point: column(results, Cell(Way.DIRECT, work, point, form), name)


def load_goals(results: Results) -> list[Goal]:
    """The goals that the loads tell."""
    of = _direct(results)
    echo, grpc_echo = FLOOR_OF[FAST], FLOOR_OF[GRPCIO]
    fast, fast_hot, grpcio = (
        of("service_us", form, work, STREAMS)
        for form, work in ((FAST, Work.MANY), (FAST, Work.HOT), (GRPCIO, Work.MANY))
    )
    floor, grpc_floor = (of("service_us", form, Work.MANY, STREAMS) for form in (echo, grpc_echo))
    asking, grpc_asking = (of("service_us", ASKING_OF[form], Work.MANY, STREAMS) for form in (FAST, GRPCIO))
    wait, asking_wait, echo_wait = (
        of("mean_us", form, Work.MANY, ONE) for form in (FAST, ASKING_OF[FAST], echo)
    )
    inside, echo_inside, two, unlimited = (
        column(results, Cell(Way.FRONT, Work.MANY, MANY_CONNECTIONS, form), "rate")
        for form in (INSIDE, FLOOR_OF[INSIDE], FAST, UNLIMITED)
    )
    return [
        Goal("fast, CPU of an allowed decision, 4 x 32: times the echo", 2.2, ratios(fast, floor)),
        Goal("an echo that asks the store, for comparison", 2.2, ratios(asking, floor)),
        Goal("fast, CPU of a hot denial, 4 x 32: times the echo", 1.5, ratios(fast_hot, floor)),
        Goal(
            "grpcio, CPU of an allowed decision, 4 x 32: us above 1.15 times its echo",
            60,
            above(grpcio, grpc_floor, 1.15),
            digits=0,
        ),
        Goal(
            "an echo that asks the store, for comparison", 60, above(grpc_asking, grpc_floor, 1.15), digits=0
        ),
        Goal(
            "store, CPU of an allowed decision, 4 x 32: us",
            12,
            of("store_us", FAST, Work.MANY, STREAMS),
            digits=1,
        ),
        Goal("store, CPU of a hot denial, 4 x 32: us", 0.1, of("store_us", FAST, Work.HOT, STREAMS)),
        Goal("fast, one at a time, mean: us above the echo", 120, above(wait, echo_wait), digits=0),
        Goal("an echo that asks the store, for comparison", 120, above(asking_wait, echo_wait), digits=0),
        Goal(
            "in the front Envoy, 64 connections: requests/s of no limit",
            0.45,
            ratios(inside, unlimited),
            at_least=True,
        ),
        Goal("an echo there, for comparison", 0.45, ratios(echo_inside, unlimited), at_least=True),
        Goal(
            "in the front Envoy, 64 connections: requests/s of fast in a process of its own",
            1,
            ratios(inside, two),
            at_least=True,
        ),
    ]


def above(values: Sequence[float], floors: Sequence[float], times: float = 1.0) -> list[float]:
    """How much more than so many times the floor, round by round; empty where there is none."""
    if len(values) != len(floors):
        return []
    return [value - times * floor for value, floor in zip(values, floors, strict=True)]


def goals_table(goals: Sequence[Goal]) -> Table:
    """What was asked and what was measured."""
    return Table("Goals", ["goal", "asked", "measured", "met"], [goal.row() for goal in goals])
