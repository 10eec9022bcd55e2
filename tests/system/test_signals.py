"""Tests of the signals that end the service, and of those that the starting process has ignored."""

import json
import os
import signal
from pathlib import Path

import pytest

from ratelimitd.process.loopback import free_port
from tests.system import command
from tests.system.processes import end_of, left_running, line_with, run, started

IGNORING = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "ratelimitd", *sys.argv[1:]])
"""
"""A program that becomes `ratelimitd` with SIGHUP and SIGINT ignored, as `nohup` and a shell script do."""

STOPPING = ("leaving", "draining", "stopped", "admin_stopped")
"""Events of an orderly stop. There may be others, because the store does not exist."""

SERVE = ("serve", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0", "--leave-s", "0")
ADMIN = ("admin", "--redis-url", "unix:///nowhere.sock")
PARTS = [
    ((*SERVE, "--transport", "grpcio"), '"listening"', ["leaving", "draining", "stopped"]),
    ((*SERVE, "--transport", "fast"), '"listening"', ["leaving", "draining", "stopped"]),
    (ADMIN, "admin_listening", ["admin_stopped"]),
]


@pytest.mark.parametrize(("command", "ready", "end"), PARTS)
async def test_signals_that_were_ignored_at_the_start_stay_ignored(
    command: tuple[str, ...], ready: str, end: list[str], tmp_path: Path
) -> None:
    env = {"TMPDIR": str(tmp_path), "RATELIMITD_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    async with started(*command, env=env, program=("-c", IGNORING)) as process:
        await line_with(process, ready)
        for pid in left_running(str(tmp_path)):
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGINT)
        assert _ignored(process.pid) >= {signal.SIGHUP, signal.SIGINT}
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert (status, [event for event in events if event in STOPPING]) == (0, end)


def _ignored(pid: int) -> set[int]:
    """Returns the numbers of the signals that a process ignores."""
    status = Path(f"/proc/{pid}/status").read_text()
    (mask,) = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn:")]
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.parametrize(("command", "ready", "end"), PARTS)
async def test_sighup_stops_as_sigterm_does(command: tuple[str, ...], ready: str, end: list[str]) -> None:
    env = {"RATELIMITD_ADMIN_LISTEN": f"127.0.0.1:{free_port()}"}
    async with started(*command, env=env) as process:
        await line_with(process, ready)
        process.send_signal(signal.SIGHUP)
        status, output = await end_of(process)
    events = [json.loads(line)["event"] for line in output.splitlines()]
    assert (status, [event for event in events if event in STOPPING]) == (0, end)


async def test_a_sigterm_to_the_host_does_not_end_it_before_its_supervisor(tmp_path: Path) -> None:
    """A service manager may send SIGTERM to every process of the service."""
    async with started(*SERVE, "--transport", "fast", env={"TMPDIR": str(tmp_path)}) as process:
        address = json.loads(await line_with(process, '"listening"'))["address"]
        (host,) = left_running(str(tmp_path)).keys() - {process.pid}
        os.kill(host, signal.SIGTERM)
        assert await command.run("health", address) == command.Result(0, "SERVING\n", "")
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    assert status == 0, output
    assert left_running(str(tmp_path)) == {}


async def test_ctrl_c_while_the_command_loads_prints_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    assert await run("policy", "show", env={"PYTHONPATH": str(tmp_path)}) == (130, "")
