"""Time that processes wait for a CPU, from the kernel. Linux only, because it reads /proc."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from bench.process_usage import process_tree

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_STEAL = 8
"""The field of /proc/stat with the ticks that the host of a virtual machine took from its CPUs."""


def children_of(pid: int) -> list[int]:
    """Returns the descendants of a process, without itself."""
    _, *others = process_tree(pid)
    return others


class Waits:
    """Times that the threads of processes, and the virtual machine, had waited for a CPU when this was made.

    Args:
        pids: the processes. One that has ended has no threads.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self.threads = dict(_threads(pids))
        self.stolen_s = _stolen_s()

    def since_s(self, before: "Waits") -> float:
        """Returns how long they have waited since `before`, summed up over threads and CPUs, in seconds."""
        started = before.threads
        waited_ns = sum(now_ns - started.get(thread, 0) for thread, now_ns in self.threads.items())
        return waited_ns / 1e9 + self.stolen_s - before.stolen_s


def _threads(pids: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yields the number of each thread, and its time on run queues in ns."""
    for pid in pids:
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - called before each call of the user
                with suppress(OSError):  # it has ended
                    yield thread, _waited_ns(f"/proc/{pid}/task/{thread}/schedstat")


def _waited_ns(path: str) -> int:
    with open(path) as file:  # noqa: PTH123 - called for each thread
        return int(file.read().split()[1])


def _stolen_s() -> float:
    with Path("/proc/stat").open() as file:
        return int(file.readline().split()[_STEAL]) * _TICK_S
