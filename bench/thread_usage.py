"""CPU time and context switches of the threads of a process. Linux only, because it reads /proc."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """What threads have used.

    Args:
        cpu_us: CPU time, user and system, in microseconds.
        switches: how often they had to wait for something, or for a CPU.
    """

    cpu_us: float
    switches: float

    def plus(self, other: "Usage") -> "Usage":
        """Returns the sum."""
        return Usage(self.cpu_us + other.cpu_us, self.switches + other.switches)

    def since(self, before: "Usage", calls: int) -> "Usage":
        """Returns the usage of a call since `before`."""
        return Usage((self.cpu_us - before.cpu_us) / calls, (self.switches - before.switches) / calls)


def thread_usage(pid: int) -> Iterator[tuple[str, Usage]]:
    """Yields the name and the usage of each thread of a process, without its main thread."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if thread.name != str(pid):
            name = (thread / "comm").read_text().strip()
            run_ns = int((thread / "schedstat").read_text().split()[0])
            lines = (thread / "status").read_text().splitlines()
            switches = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
            yield name, Usage(run_ns / 1000, switches)
