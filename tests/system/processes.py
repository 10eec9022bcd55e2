"""Starts `ratelimitd` in its own process and watches it."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.eventually import WAIT_S


@asynccontextmanager
async def started(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Sequence[str] = ("-m", "ratelimitd"),
) -> AsyncIterator[Process]:
    """Starts `ratelimitd` with its output and errors in one pipe; kills it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *program, *arguments),
        stdout=PIPE,
        stderr=STDOUT,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int | None, str]:
    """Runs `ratelimitd`; returns the exit status and the output."""
    async with started(*arguments, env=env, cwd=cwd) as process:
        output, _ = await process.communicate()
        return process.returncode, output.decode()


async def line_with(process: Process, text: str) -> str:
    """Returns the first line of output that contains `text`."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(WAIT_S * 2):
        async for line in process.stdout:
            seen += line.decode()
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"{text!r} is not in:\n{seen}")


async def end_of(process: Process) -> tuple[int | None, str]:
    """Waits for the end; returns the exit status and the rest of the output."""
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode, output.decode()


def left_running(marker: str) -> dict[int, str]:
    """Returns the numbers and names of processes whose environment contains `marker`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().partition("\0")[0]
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def command_line(pid: int) -> str:
    """Returns the arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()
