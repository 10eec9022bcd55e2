"""What a drill is, and what it found."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drills.policy import CAPACITY, REFILL_RATE
from drills.records import Record, over_admitted, wrongly_denied
from drills.traffic import Traffic

RATE = 300.0
"""Requests per second of most drills. Two cores serve it with time to spare."""

BOTH = ("fast", "grpcio")
FAST = ("fast",)


@dataclass(frozen=True)
class Site:
    """Where a drill runs.

    Args:
        folder: an empty folder for its files.
        transport: that of the replicas.
        seconds: how long a fault lasts whose duration is free, in seconds.
        rate: requests per second, unless the drill is about another load.
    """

    folder: Path
    transport: str
    seconds: float
    rate: float = RATE


@dataclass(frozen=True)
class Result:
    """The records of a drill, and the promises that it saw broken.

    Args:
        load: the load in words.
        records: all requests.
        recovery_s: how long after the fault the system had recovered; None if it had not.
        broken: sentences about broken promises.
        note: what the table adds about this run.
    """

    load: str
    records: Sequence[Record]
    recovery_s: float | None
    broken: Sequence[str] = ()
    note: str = ""

    @property
    def over_admitted(self) -> int:
        """The tokens that tight users got above the law."""
        return over_admitted(self.records, CAPACITY, REFILL_RATE)


@dataclass(frozen=True)
class Drill:
    """One fault.

    Args:
        name: what the command line calls it.
        fault: what the table calls it.
        run: causes it on a system under load.
        may_over_admit: the tokens above the law that docs/reliability.md allows, over all tight users.
        transports: the transports that it runs on.
    """

    name: str
    fault: str
    run: Callable[[Site], Awaitable[Result]]
    may_over_admit: int = 0
    transports: Sequence[str] = field(default=FAST)

    def broken(self, result: Result) -> list[str]:
        """Returns the promises that the result breaks. No timing is a promise here."""
        found = list(result.broken)
        if denied := wrongly_denied(result.records):
            found.append(f"{denied} requests wrongly denied")
        if (above := result.over_admitted) > self.may_over_admit:
            found.append(f"{above} requests over-admitted; at most {self.may_over_admit} are documented")
        if result.recovery_s is None:
            found.append("never recovered")
        return found


def result(traffic: Traffic, *, broken: Sequence[str] = (), note: str = "", load: str = "") -> Result:
    """Returns the result of a drill whose load has ended."""
    words = load or f"{traffic.spec.rate:g}/s"
    return Result(words, traffic.records, traffic.recovery_s, broken, note)
