"""Child processes. Each is stopped by its own handle, and one that fails says why in its own words."""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from ratelimitd.errors import ChildError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.05
_LAST_LINES = 8


@asynccontextmanager
async def child(
    name: str, command: Sequence[str], log: Path, ready: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Process]:
    """Runs `command`, its output into `log`, from when `ready` says so until the end of the block.

    It has a session of its own, so Ctrl-C reaches only this process, which then stops its children in order.
    Raises ChildError when it ends before it is ready, or never is.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        await _until_ready(name, process, log, ready)
        yield process
    finally:
        await _stop(process)


async def _until_ready(name: str, process: Process, log: Path, ready: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await ready():
                if process.returncode is not None:
                    raise ChildError(f"{name} ended with status {process.returncode}:\n{last_lines(log)}")
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError as error:
        raise ChildError(f"{name} was not ready in {START_TIMEOUT_S:g} s:\n{last_lines(log)}") from error


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


def last_lines(log: Path) -> str:
    """The end of a log, for a message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
