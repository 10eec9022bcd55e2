"""The work: who asks, how many at once, and which way. A cell is one of it, done to one form."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from bench.messages import HOT

USERS = 20_000
"""The users of direct work that has many."""


class Work(StrEnum):
    """Who asks. Hot is one user whose bucket is empty; in mixed, every second call is that user's."""

    MANY = "many users, allowed"
    HOT = "one hot user, denied"
    MIXED = "half and half"


DENIED = {Work.MANY: 0.0, Work.HOT: 1.0, Work.MIXED: 0.5}
"""The share of calls that ratelimitd denies, exactly."""


class Way(StrEnum):
    """How a request comes to the service."""

    DIRECT = "direct"
    FRONT = "through Envoy"


@dataclass(frozen=True, order=True)
class Point:
    """How many at once: connections, and calls at once on each."""

    connections: int
    streams: int = 1

    def __str__(self) -> str:
        return str(self.connections) if self.streams == 1 else f"{self.connections} x {self.streams}"

    @property
    def in_flight(self) -> int:
        """Calls at once on all connections."""
        return self.connections * self.streams


ONE, EIGHT, MANY_CONNECTIONS, STREAMS = Point(1), Point(8), Point(64), Point(4, 32)
POINTS = {Way.DIRECT: (ONE, EIGHT, MANY_CONNECTIONS, STREAMS), Way.FRONT: (ONE, EIGHT, MANY_CONNECTIONS)}


@dataclass(frozen=True)
class Cell:
    """One row of the table. `form` is the name of the form under load; a floor has only Work.MANY."""

    way: Way
    work: Work
    point: Point
    form: str


def turns(work: Work, users: int = USERS) -> list[tuple[int, int]]:
    """The users whose calls alternate, as (first, how many)."""
    many, hot = (0, users), (HOT, 1)
    return {Work.MANY: [many], Work.HOT: [hot], Work.MIXED: [hot, many]}[work]


def cells(way: Way, forms: list[str], floors: list[str]) -> Iterator[Cell]:
    """Every row of a table, in its order: those to compare stand together."""
    for work in Work:
        for point in POINTS[way]:
            for form in [*forms, *(floors if work is Work.MANY else [])]:
                yield Cell(way, work, point, form)
