"""Tests of addresses to listen on, with every command that listens."""

import json
import socket

import pytest

from tests.system import command
from tests.system.processes import end_of, line_with, run, started

STORE = ("--redis-url", "unix:///nowhere.sock")
COMMANDS = [
    ("serve", "--transport", "grpcio", *STORE, "--listen"),
    ("serve", "--transport", "fast", *STORE, "--listen"),
    ("admin", *STORE, "--admin-listen"),
]


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("192.0.2.1:50051", "this machine has no such address"),
        ("nowhere.invalid:50051", "the host name cannot be resolved: "),
        ("[::]:TAKEN", "Address already in use"),
    ],
)
async def test_an_address_that_cannot_be_used_is_one_sentence(
    arguments: tuple[str, ...], listen: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = listen.replace("TAKEN", str(taken.getsockname()[1]))
        status, output = await run(*arguments, listen, "--log-level", "error")
    assert status == 1
    assert output.startswith(f"ratelimitd: cannot listen on {listen}: {reason}")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("listen", ["[::]", "localhost"])
async def test_the_admin_service_listens_on_each_address_that_the_setting_names(listen: str) -> None:
    async with started("admin", *STORE, "--admin-listen", f"{listen}:0") as process:
        address = json.loads(await line_with(process, "admin_listening"))["address"]
        host, _, port = address.rpartition(":")
        assert host == listen
        for reachable in ("127.0.0.1", "::1") if listen == "[::]" else (listen,):
            socket.create_connection((reachable, int(port))).close()
        process.terminate()
        assert (await end_of(process))[0] == 0


async def test_health_and_check_reach_a_service_that_listens_on_every_address() -> None:
    flags = ("--listen", "[::]:0", "--leave-s", "0")
    async with started("serve", "--transport", "grpcio", *STORE, *flags) as process:
        address = json.loads(await line_with(process, '"listening"'))["address"]
        for target in (address, address.replace("[::]", "0.0.0.0"), address.replace("[::]", "[0::0]")):
            assert await command.run("health", target) == command.Result(0, "SERVING\n", "")
            done = await command.run("check", "--path", "/", "--target", target, "--json")
            assert done.json["metadata"]["outcome"] == "undecided"
