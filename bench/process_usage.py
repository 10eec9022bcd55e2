"""CPU time and memory of a process and its descendants. Linux only, because it reads /proc."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

_CPUCLOCK_SCHED = 2


@dataclass(frozen=True)
class Memory:
    """Resident bytes. `rss` counts shared pages in full; `pss` divides them among their processes."""

    rss: int
    pss: int


def process_tree(pid: int) -> Iterator[int]:
    """Yields the process id and those of its descendants."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from process_tree(int(child))


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of the living processes of the tree, including threads that have ended.

    Reads the kernel's CPU clock of each process (clock_getcpuclockid(3)). /proc/PID/stat counts in steps of
    10 ms, a tenth of what a store uses during a load. Raises BenchError when the process has ended.
    """
    try:
        return sum(time.clock_gettime(~one << 3 | _CPUCLOCK_SCHED) for one in process_tree(pid))
    except OSError as error:
        raise BenchError(f"process {pid} has ended, or does not run on this machine") from error


def memory(pid: int) -> Memory:
    """Current resident memory of the tree. Raises BenchError when the process has ended."""
    found = {"Rss": 0, "Pss": 0}
    try:
        for one in process_tree(pid):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in found:
                    found[name] += int(rest.split()[0]) * 1024
    except OSError as error:
        raise BenchError(f"process {pid} has ended, or its memory is not readable") from error
    return Memory(found["Rss"], found["Pss"])
