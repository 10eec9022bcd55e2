"""What is measured: a case combines a workload, a concurrency, an entry point and a target."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

USERS = 20_000
"""Users of the direct load; see h2load.py for the users behind Envoy."""

ID_DIGITS = 8
"""Digits of a user's number in the user id and in gRPC messages."""

HOT_USER = 99_999_999
"""Number of the user whose bucket is empty."""

API = "/api/*"
"""Route pattern of every request."""


def user_id(number: int) -> str:
    """The `x-user-id` of the user with this number."""
    return f"u{number:0{ID_DIGITS}}"


class Workload(StrEnum):
    """Which users send the requests. In MIXED, requests of the hot user and of the others alternate."""

    MANY = "many users, allowed"
    HOT = "one hot user, denied"
    MIXED = "alternating"


DENIED_SHARE = {Workload.MANY: 0.0, Workload.HOT: 1.0, Workload.MIXED: 0.5}
"""Exact share of requests that ratelimitd denies."""


class Entry(StrEnum):
    """Where the load enters: at the service itself (gRPC), or at an Envoy that calls the service (HTTP)."""

    DIRECT = "direct"
    ENVOY = "through Envoy"


@dataclass(frozen=True, order=True)
class Concurrency:
    """Number of connections, and of concurrent calls on each."""

    connections: int
    streams: int = 1

    def __str__(self) -> str:
        return str(self.connections) if self.streams == 1 else f"{self.connections} x {self.streams}"

    @property
    def in_flight(self) -> int:
        """Concurrent calls on all connections."""
        return self.connections * self.streams


SINGLE, EIGHT, SIXTY_FOUR, STREAMS = Concurrency(1), Concurrency(8), Concurrency(64), Concurrency(4, 32)
CONCURRENCIES = {Entry.DIRECT: (SINGLE, EIGHT, SIXTY_FOUR, STREAMS), Entry.ENVOY: (SINGLE, EIGHT, SIXTY_FOUR)}


@dataclass(frozen=True)
class Case:
    """One row of the load tables. `target` is the target's name; a floor is measured with MANY only."""

    entry: Entry
    workload: Workload
    concurrency: Concurrency
    target: str


def user_ranges(workload: Workload, users: int = USERS) -> list[tuple[int, int]]:
    """The groups of users, as (first number, count), whose requests alternate."""
    many, hot = (0, users), (HOT_USER, 1)
    return {Workload.MANY: [many], Workload.HOT: [hot], Workload.MIXED: [hot, many]}[workload]


def cases(entry: Entry, targets: list[str], floors: list[str]) -> Iterator[Case]:
    """All cases of an entry point in table order: cases to compare with each other are adjacent."""
    for workload in Workload:
        for concurrency in CONCURRENCIES[entry]:
            for target in [*targets, *(floors if workload is Workload.MANY else [])]:
                yield Case(entry, workload, concurrency, target)
