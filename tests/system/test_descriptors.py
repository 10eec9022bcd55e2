"""Tests of a service that has no file descriptors left for connections."""

import json
import socket
from contextlib import ExitStack

import pytest

from ratelimitd.process.loopback import free_port
from tests.eventually import eventually
from tests.system import command
from tests.system.processes import line_with, started

LIMIT = 112
LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT - 8}, {LIMIT}))
os.execv(sys.executable, [sys.executable, "-m", "ratelimitd", *sys.argv[1:]])
"""


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_service_without_free_descriptors_logs_one_line_and_recovers(transport: str) -> None:
    flags = ("--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", "--transport", transport, *flags, program=("-c", LIMITED)) as process:
        address = json.loads(await line_with(process, '"listening"'))["address"]
        host, _, port = address.rpartition(":")
        with ExitStack() as connections:
            for _ in range(LIMIT):
                connections.enter_context(socket.create_connection((host, int(port)), timeout=10))
            line = json.loads(await line_with(process, "connections_exhausted"))
            assert line["at_most"] == LIMIT - 80
        assert json.loads(await line_with(process, "connections_"))["event"] == "connections_available"

        async def serves() -> bool:
            return (await command.run("health", address)).status == 0

        await eventually(serves, "the service answers again")


async def test_an_admin_service_without_free_descriptors_logs_one_line_and_recovers() -> None:
    env = {"RATELIMITD_ADMIN_LISTEN": f"127.0.0.1:{(port := free_port())}"}
    flags = ("--redis-url", "unix:///nowhere.sock")
    async with started("admin", *flags, env=env, program=("-c", LIMITED)) as process:
        await line_with(process, "admin_listening")
        with ExitStack() as connections:
            for _ in range(LIMIT):
                connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            assert process.stdout is not None
            line = json.loads(await process.stdout.readline())
            assert (line["event"], line["at_most"]) == ("connections_exhausted", LIMIT - 80)
        assert json.loads(await process.stdout.readline())["event"] == "connections_available"
