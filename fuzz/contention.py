"""Time that processes wait for a CPU, from the kernel. Linux only, because it reads /proc."""

import os
from collections.abc import Iterator
from pathlib import Path

from bench.process_usage import process_tree

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_STEAL = 8
"""The field of /proc/stat with the ticks that the host of a virtual machine took from its CPUs."""


def children_of(pid: int) -> list[int]:
    """Returns the descendants of a process, without itself."""
    _, *others = process_tree(pid)
    return others


def waited_s(pids: list[int]) -> float:
    """Returns how long the threads of these processes, and the virtual machine, have waited for a CPU so far.

    Seconds, summed up over threads and CPUs. A process that has ended counts nothing.
    """
    return sum(_threads(pids)) / 1e9 + _stolen_s()


def _threads(pids: list[int]) -> Iterator[int]:
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - called before each call of the user
                with open(f"/proc/{pid}/task/{thread}/schedstat") as file:  # noqa: PTH123 - the same
                    yield int(file.read().split()[1])  # ns on the run queue
        except OSError:
            continue


def _stolen_s() -> float:
    with Path("/proc/stat").open() as file:
        return int(file.readline().split()[_STEAL]) * _TICK_S
