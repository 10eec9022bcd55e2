"""Child processes. Each is stopped by its own handle, and one that fails says why in its own words."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.errors import ChildError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.05
_LAST_LINES = 8


@dataclass(frozen=True, slots=True)
class Child:
    """A process, and the file that its output goes to."""

    name: str
    process: Process
    log: Path

    async def until(self, ready: Callable[[], Awaitable[bool]]) -> None:
        """Returns once `ready` says so. Raises ChildError when the process ends before, or takes too long."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await ready():
                    if self.process.returncode is not None:
                        raise ChildError(
                            f"{self.name} ended with status {self.process.returncode}:\n{self._end()}"
                        )
                    await asyncio.sleep(_POLL_INTERVAL_S)
        except TimeoutError as error:
            raise ChildError(f"{self.name} was not ready in {START_TIMEOUT_S:g} s:\n{self._end()}") from error

    def _end(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


@asynccontextmanager
async def child(name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> AsyncIterator[Child]:
    """Runs `command`, its output into `log`, until the end of the block.

    It has a session of its own, so Ctrl-C reaches only this process, which then stops its children in order.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env=env,
            start_new_session=True,
        )
    try:
        yield Child(name, process, log)
    finally:
        await _stop(process)


async def _stop(process: Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
