"""A process that a drill can stop, kill, freeze and start again."""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from bench.process_usage import process_tree
from drills.signals import send_sigterm
from ratelimitd.process.child import Child, child


class Restartable:
    """A process with its children, if it has any.

    Args:
        name: what errors call it.
        command: its command.
        environ: its environment.
        log: the file with its output, of all its lives.
    """

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.environ = dict(environ)
        self.log = log
        self._name, self._command = name, command
        self._life = AsyncExitStack()
        self._child: Child | None = None

    async def launch(self) -> Child:
        """Starts the process."""
        running = child(self._name, self._command, self.log, self.environ, stop=send_sigterm)
        self._child = await self._life.enter_async_context(running)
        return self._child

    async def stop(self) -> None:
        """Sends SIGTERM, also to a frozen process, and returns once it has ended."""
        self.signal(signal.SIGCONT)
        await self._ended()

    async def kill(self) -> None:
        """Kills it with its children. What it had not written to disk is lost."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        await self._life.aclose()
        self._child = None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to it and its children."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def pids(self) -> list[int]:
        """The numbers of the process and its children; none if it does not run."""
        if self._child is None or self._child.process.returncode is not None:
            return []
        return list(process_tree(self._child.process.pid))
