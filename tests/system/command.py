"""Runs the `ratelimitd` command in tests."""

import asyncio
import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import structlog
from redis.asyncio import Redis

from ratelimitd.cli import main
from ratelimitd.core.model import MICRO
from ratelimitd.rollout.replicas import SILENT_S, Replicas
from tests.example_limits import KEY
from tests.replicas import replica

FULL = """\
tiers:
  global: { capacity: 500, refill_rate: 50 }
  user: { capacity: 100, rate: 300/min, shadow: true }
  user_api: { capacity: 4, refill_rate: 0.000001 }
routes:
  - { path: /api/users/*/orders, methods: [GET, POST], api: orders, cost: 3 }
  - { path: /api/status, exempt: true }
  - { path: /api/status, methods: [GET] }
overrides:
  users: { mallory: { blocked: true } }
  headers: { x-plan: { gold: { user_api: { capacity: 9, rate: 1/s } } } }
  context: { plan: { gold: { exempt: true } } }
"""

UNREACHABLE = "routes[2]: is unreachable: routes[1] already matches every request it would"
"""The advice on FULL."""


@dataclass(frozen=True)
class Result:
    """The exit status and output of a command."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, parsed as JSON."""
        return json.loads(self.out)


async def run(*arguments: str, text: str | bytes = "") -> Result:
    """Runs `ratelimitd` in this process, with `text` as standard input and without a terminal."""
    return await asyncio.to_thread(_run, arguments, text if isinstance(text, bytes) else text.encode())


def _run(arguments: Sequence[str], text: bytes) -> Result:
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        patch.object(sys, "argv", ["ratelimitd", *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text))),
        redirect_stdout(out),
        redirect_stderr(err),
        without_log_settings(),
    ):
        try:
            main.main()
        except SystemExit as error:
            status = int(error.code or 0)
    return Result(status, out.getvalue(), err.getvalue())


@contextmanager
def without_log_settings() -> Iterator[None]:
    """Undoes what the block changes in the settings of the log."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger().handlers[:] = handlers
        logging.captureWarnings(False)  # noqa: FBT003 - the function takes no keyword


def process(*arguments: str, **env: str) -> Result:
    """Runs the installed `ratelimitd` in its own process."""
    script = Path(sys.executable).parent / "ratelimitd"
    done = subprocess.run(
        [script, *arguments], env=os.environ | env, capture_output=True, text=True, check=False
    )
    return Result(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*arguments: str, typed: str = "", columns: int = 80) -> tuple[int, str]:
    """Runs `ratelimitd` on a terminal; returns the exit status and the text on the screen."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ratelimitd", *arguments],
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as child:
        os.close(theirs)
        os.write(ours, f"{typed}\x04".encode())  # the end of input: another question ends the command
        screen = b"".join(_read(ours))
    os.close(ours)
    return child.returncode, screen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(terminal, 4096)
        except OSError:  # the process has closed the other end
            return


def visible(screen: str) -> str:
    """Returns the text on a screen without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", screen)


async def apply(text: str = FULL, *arguments: str) -> Result:
    """Applies a policy from standard input."""
    done = await run("policy", "apply", "-", *arguments, text=text)
    assert done.status == 0, done.err
    return done


async def publish(store: Redis, name: str, number: int, refused: str | None = None) -> None:
    """Publishes a replica that counts as seen just now, however long the machine takes to run the command."""
    seconds, micros = await store.time()
    now_us = seconds * MICRO + micros
    await Replicas(store, KEY).publish(
        replica(
            name,
            number=number,
            refused=refused,
            version="9.9.9",
            started_us=now_us - 90_000_000,
            seen_us=now_us + (SILENT_S - 1) * MICRO,
        )
    )
