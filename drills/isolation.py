"""Namespaces of the drills' own, so that dropped packets and another name server concern nobody else.

As root, `python -m drills` starts itself again in a new network namespace and a new mount namespace. The
kernel removes both, with all rules and mounts in them, when the last process in them ends.
"""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from drills.errors import DrillError, NotPossibleError

INSIDE = "_DRILLS_INSIDE"
"""The environment variable that marks a process in the namespaces."""

_ENTER = ("unshare", "--net", "--mount", "--", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


def isolated() -> bool:
    """Returns whether this process runs in namespaces of its own."""
    return INSIDE in os.environ


def enter() -> None:
    """Replaces this process by one in new namespaces, where that is possible; else it returns."""
    if isolated() or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip"))):
        return
    command = [*_ENTER, sys.executable, "-m", "drills", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})  # noqa: S606 - no shell reads the arguments


def need_isolation(*programs: str) -> None:
    """Raises NotPossibleError without namespaces or without one of the programs."""
    if not isolated():
        raise NotPossibleError("needs root, unshare (util-linux) and ip (iproute2)")
    need(*programs)


def need(*programs: str) -> None:
    """Raises NotPossibleError without one of the programs."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        raise NotPossibleError(f"needs {', '.join(missing)}")


async def run(*command: str) -> None:
    """Runs a command. Raises DrillError with its output when it fails."""
    process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
    _, errors = await process.communicate()
    if process.returncode:
        raise DrillError(f"{' '.join(command)}: {errors.decode().strip()}")


@asynccontextmanager
async def dropped_packets(port: int) -> AsyncIterator[None]:
    """Drops all TCP packets to and from a port of loopback until the end of the block."""
    need_isolation("iptables")
    rules = [("INPUT", "-p", "tcp", side, str(port), "-j", "DROP") for side in ("--dport", "--sport")]
    for rule in rules:
        await run("iptables", "-w", "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            await run("iptables", "-w", "-D", *rule)
