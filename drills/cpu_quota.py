"""A share of a core for some processes, by a control group of the kernel."""

import errno
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from drills.errors import NotPossibleError
from drills.waiting import until

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
_REMOVED_S = 10.0
_NAME = "ratelimitd-drills"


class CpuQuota:
    """A control group.

    Args:
        folder: the folder of the group.
        unified: whether it is one of version 2.
    """

    def __init__(self, folder: Path, *, unified: bool) -> None:
        self._folder, self._unified = folder, unified
        folder.mkdir()

    def limit(self, pids: Sequence[int], cores: float) -> None:
        """Lets these processes together use so many cores."""
        quota_us = round(cores * _PERIOD_US)
        if self._unified:
            (self._folder / "cpu.max").write_text(f"{quota_us} {_PERIOD_US}")
        else:
            (self._folder / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (self._folder / "cpu.cfs_quota_us").write_text(str(quota_us))
        for pid in pids:
            (self._folder / "cgroup.procs").write_text(str(pid))

    async def remove(self) -> bool:
        """Removes the group. Returns whether that was possible: it is not while a process is in it."""
        try:
            self._folder.rmdir()
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise
        return True


@asynccontextmanager
async def cpu_quota() -> AsyncIterator[CpuQuota]:
    """Yields an empty control group. The processes in it must end before the block does."""
    unified = (_ROOT / "cgroup.controllers").exists()
    parent = _ROOT if unified else _ROOT / "cpu"
    if os.geteuid() != 0 or not parent.is_dir():
        raise NotPossibleError("needs root and the control group `cpu`")
    if unified and "cpu" not in (_ROOT / "cgroup.subtree_control").read_text().split():
        raise NotPossibleError("needs `cpu` in /sys/fs/cgroup/cgroup.subtree_control")
    group = CpuQuota(parent / f"{_NAME}-{os.getpid()}", unified=unified)
    try:
        yield group
    finally:
        # An orphan leaves the group only when the init process has collected its status.
        await until(group.remove, _REMOVED_S, "the processes of the control group have ended")
