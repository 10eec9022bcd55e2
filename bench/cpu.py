"""CPU time and memory of a process and of all that it started. Linux only: it reads /proc."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.http2 import LoadError

_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Memory:
    """Resident bytes: all of them, and with shared ones split among those who share."""

    rss: int
    pss: int


def tree(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from tree(int(child))


def cpu_s(pid: int) -> float:
    """Seconds of CPU that the living processes of the tree have used: user and system, ended threads too.

    It is the kernel's clock for a process (clock_getcpuclockid(3)); /proc/PID/stat counts in steps of 10 ms,
    which is a tenth of what a store uses in a load. Raises LoadError when the process has ended.
    """
    try:
        return sum(time.clock_gettime(~one << 3 | _CPUCLOCK_SCHED) for one in tree(pid))
    except OSError as error:
        raise LoadError(f"process {pid} has ended, or is none of this machine") from error


def memory(pid: int) -> Memory:
    """What the tree occupies now. Raises LoadError when the process has ended."""
    found = {"Rss": 0, "Pss": 0}
    try:
        for one in tree(pid):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] += int(rest.split()[0]) * 1024
    except OSError as error:
        raise LoadError(f"process {pid} has ended, or may not be looked at") from error
    return Memory(found["Rss"], found["Pss"])
