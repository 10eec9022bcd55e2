"""Tests with a name server that never answers: stops and errors come in time all the same."""

import json
import signal
from pathlib import Path

import pytest

from tests.system.processes import end_of, line_with, started

HANGING = """
import socket, sys, threading
_system = socket.getaddrinfo
def getaddrinfo(host, *arguments, **more):
    if "store.example" in str(host):
        sys.stderr.write('{"event": "resolving"}\\n')
        threading.Event().wait()
    return _system(host, *arguments, **more)
socket.getaddrinfo = getaddrinfo
"""
"""Python runs this at its start. Resolving the store's name then blocks a thread until the process ends."""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    return {"PYTHONPATH": str(tmp_path), "RATELIMITD_REDIS_URL": "redis://store.example:6379/0"}


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_service_stops_in_time(transport: str, env: dict[str, str]) -> None:
    flags = ("--listen", "127.0.0.1:0", "--leave-s", "0", "--drain-s", "1")
    async with started("serve", "--transport", transport, *flags, env=env) as process:
        await line_with(process, '"listening"')
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    assert status == 0
    assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "stopped"


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_signal_during_the_start_ends_it(transport: str, env: dict[str, str]) -> None:
    flags = ("--listen", "store.example:0", "--transport", transport)
    async with started("serve", *flags, env=env) as process:
        await line_with(process, "resolving")
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    assert (status, [json.loads(line)["event"] for line in output.splitlines()][-1]) == (0, "stopped")


async def test_the_admin_service_stops_in_time(env: dict[str, str]) -> None:
    async with started("admin", "--admin-listen", "127.0.0.1:0", env=env) as process:
        await line_with(process, "admin_listening")
        process.send_signal(signal.SIGTERM)
        assert (await end_of(process))[0] == 0


async def test_ctrl_c_ends_a_command_that_waits_for_the_store(env: dict[str, str]) -> None:
    async with started("policy", "status", env=env) as process:
        await line_with(process, "resolving")
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in (await end_of(process))[1]
