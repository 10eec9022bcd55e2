"""Signals to processes that may have ended."""

import os
import signal
from asyncio.subprocess import Process
from contextlib import suppress


def send_sigterm(process: Process) -> None:
    """Sends SIGTERM, unless the process has ended.

    Unlike asyncio's `terminate`, it does not collect the status of a process that was just killed, for which
    asyncio waits in a thread.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
