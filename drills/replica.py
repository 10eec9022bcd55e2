"""A replica that can be stopped, killed, frozen and started again."""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from bench.launch import is_serving
from bench.process_usage import process_tree
from drills.signals import send_sigterm
from ratelimitd.address import TcpAddress
from ratelimitd.process.child import Child, child


class Replica:
    """One `ratelimitd serve`.

    Args:
        name: the name of its log, without the suffix.
        address: where it listens.
        environ: its environment, with its settings.
        folder: the folder of its log.
        wrapper: a command that starts it, such as one that sets a limit.
    """

    def __init__(
        self,
        name: str,
        address: TcpAddress,
        environ: Mapping[str, str],
        folder: Path,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.address = address
        self.environ = dict(environ)
        self.log = folder / f"{name}.log"
        self._name, self._wrapper = name, wrapper
        self._life = AsyncExitStack()
        self._child: Child | None = None

    async def start(self) -> None:
        """Starts it, and returns once it decides."""
        await self.launch()
        assert self._child is not None  # noqa: S101 - for mypy: launch sets it
        await self._child.until(partial(is_serving, self.address))

    async def launch(self) -> None:
        """Starts the process."""
        command = [*self._wrapper, sys.executable, "-P", "-m", "ratelimitd", "serve"]
        command += ["--listen", str(self.address)]
        self._child = await self._life.enter_async_context(
            child(self._name, command, self.log, self.environ, stop=send_sigterm)
        )

    async def stop(self) -> None:
        """Sends SIGTERM, and returns once the process has ended."""
        self.signal(signal.SIGCONT)
        await self._ended()

    async def kill(self) -> None:
        """Kills all of its processes."""
        self.signal(signal.SIGKILL)
        await self._ended()

    async def _ended(self) -> None:
        await self._life.aclose()
        self._child = None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    @property
    def pids(self) -> list[int]:
        """Its processes: with the transport `fast`, an Envoy beside the Python that starts it."""
        if self._child is None or self._child.process.returncode is not None:
            return []
        return list(process_tree(self._child.process.pid))

    def logged(self, event: str) -> int:
        """Returns how often its log has this event."""
        return self.log.read_text(errors="replace").count(f'"event": "{event}"')
