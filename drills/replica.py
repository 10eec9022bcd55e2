"""A replica that can be stopped, killed, frozen and started again."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.launch import is_serving
from drills.restartable import Restartable
from ratelimitd.address import TcpAddress


class Replica(Restartable):
    """One `ratelimitd serve`. With the transport `fast`, its Envoy is a child.

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
        command = [*wrapper, sys.executable, "-P", "-m", "ratelimitd", "serve", "--listen", str(address)]
        super().__init__(name, command, environ, folder / f"{name}.log")

    async def start(self) -> None:
        """Starts it, and returns once it decides."""
        process = await self.launch()
        await process.until(partial(is_serving, self.address))

    def logged(self, event: str) -> int:
        """Returns how often its log has this event."""
        return self.log.read_text(errors="replace").count(f'"event": "{event}"')
