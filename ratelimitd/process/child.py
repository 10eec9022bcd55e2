"""Child processes. Each ends with the block that started it, and one that fails reports its last output."""

import asyncio
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.errors import ChildError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
POLL_INTERVAL_S = 0.05
_LAST_LINES = 8


@dataclass(frozen=True, slots=True)
class Child:
    """A running process.

    Args:
        name: what error messages call it.
        process: its handle.
        log: the file with its output; None when it writes to the output of this process.
    """

    name: str
    process: Process
    log: Path | None

    async def until(
        self, ready: Callable[[], Awaitable[bool]], *, poll_interval_s: float = POLL_INTERVAL_S
    ) -> None:
        """Returns once `ready` returns True.

        Raises ChildError when the process ends first, or is not ready within START_TIMEOUT_S.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await ready():
                    if self.process.returncode is not None:
                        raise self._failed(f"ended with status {self.process.returncode}")
                    await asyncio.sleep(poll_interval_s)
        except TimeoutError as error:
            raise self._failed(f"was not ready within {START_TIMEOUT_S:g} s") from error

    def _failed(self, how: str) -> ChildError:
        if self.log is None:
            return ChildError(f"{self.name} {how}")
        last = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
        return ChildError(f"{self.name} {how}:\n{last}")


def terminate(process: Process) -> None:
    """Sends SIGTERM, unless the process has ended."""
    if process.returncode is None:
        process.terminate()


@asynccontextmanager
async def child(
    name: str,
    command: Sequence[str],
    log: Path | None,
    env: Mapping[str, str],
    *,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    stop: Callable[[Process], None] = terminate,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> AsyncIterator[Child]:
    """Runs a process until the end of the block.

    It has a session of its own, so Ctrl-C reaches only this process, which then stops its children in order.

    Args:
        name: what error messages call it.
        command: the program and its arguments.
        log: the file that its output is appended to; None leaves it the output of this process.
        env: its environment.
        cwd: its working directory; None leaves it that of this process.
        pass_fds: file descriptors that it inherits.
        stop: asks it to end, when the block ends. It may have ended by itself.
        stop_timeout_s: how long it may then take, in seconds, before it is killed.

    Raises ChildError when it cannot be started.
    """
    with ExitStack() as files:
        output = None if log is None else files.enter_context(log.open("ab"))
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=DEVNULL,
                stdout=output,
                stderr=None if output is None else STDOUT,
                env=env,
                cwd=cwd,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except OSError as error:
            raise ChildError(f"{name} cannot be started: {error}") from error
    try:
        yield Child(name, process, log)
    finally:
        stop(process)
        await _ended(process, stop_timeout_s)


async def _ended(process: Process, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
