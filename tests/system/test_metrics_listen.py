"""Tests of `/metrics` and `/healthz` of a running service, with each way to run it."""

import asyncio
import json
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from ratelimitd.address import TcpAddress
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.eventually import eventually
from tests.system import command
from tests.system.processes import end_of, line_with, run, started

WAYS = ["grpcio", "fast", "inside"]
"""`serve` with each transport, and `ratelimitd envoy`."""

ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True)
class Replica:
    """A running service and the address of its metrics."""

    process: Process
    metrics: str
    lines: str

    async def get(self, path: str) -> httpx.Response:
        """Sends a request to the server of the metrics."""
        async with httpx.AsyncClient(base_url=f"http://{self.metrics}", trust_env=False) as client:
            return await client.get(path)

    async def health(self) -> tuple[int, str]:
        """Returns the status and the body of `/healthz`."""
        reply = await self.get("/healthz")
        return reply.status_code, reply.text


def arguments_of(way: str, folder: Path) -> list[str]:
    """Returns the command that runs the service in this way, on free ports."""
    if way != "inside":
        return ["serve", "--transport", way, "--listen", ANY_PORT, "--leave-s", "0"]
    front, admin, nowhere = (TcpAddress(LOOPBACK, port) for port in (free_port(), free_port(), 1))
    config = folder / "envoy.yaml"
    clusters = {"ratelimitd": [nowhere], "backend": [nowhere]}
    config.write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
    return ["envoy", "--config", str(config), "--", "--log-level", "error"]


@asynccontextmanager
async def replica(
    way: str, folder: Path, store_url: str, *flags: str, listen: str = ANY_PORT
) -> AsyncIterator[Replica]:
    """Runs the service until it answers."""
    env = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_METRICS_LISTEN": listen}
    async with started(*arguments_of(way, folder), *flags, env=env) as process:
        line = json.loads(await line_with(process, '"metrics_listening"'))
        service = "" if way == "inside" else await line_with(process, '"listening"')
        yield Replica(process, line["address"], service)


@pytest.mark.parametrize(
    ("way", "host", "reachable"),
    [
        ("grpcio", "localhost", ["localhost"]),
        ("fast", "[::]", ["127.0.0.1", "[::1]"]),
        ("inside", "[::]", ["127.0.0.1", "[::1]"]),
    ],
)
async def test_metrics_and_health_are_answered_without_a_store_on_a_free_port_of_each_address(
    way: str, host: str, reachable: list[str], tmp_path: Path
) -> None:
    async with replica(way, tmp_path, "unix:///nowhere.sock", listen=f"{host}:0") as up:
        named, _, port = up.metrics.rpartition(":")
        assert named == host
        for one in reachable:
            there = replace(up, metrics=f"{one}:{port}")
            assert await there.health() == (200, '{"status":"ok"}')
            metrics = await there.get("/metrics")
            assert metrics.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "\nratelimitd_build_info{" in metrics.text
        up.process.terminate()
        status, output = await end_of(up.process)
        assert (status, "Traceback" in output) == (0, False)


async def test_an_empty_variable_turns_the_metrics_off(tmp_path: Path) -> None:
    env = {"RATELIMITD_REDIS_URL": "unix:///nowhere.sock", "RATELIMITD_METRICS_LISTEN": ""}
    async with started(*arguments_of("fast", tmp_path), env=env) as process:
        assert process.stdout is not None
        events = []
        while "listening" not in events:
            events.append(json.loads(await process.stdout.readline())["event"])
        process.terminate()
        status, rest = await end_of(process)
    assert (status, [event for event in [*events, rest] if "metrics_listening" in event]) == (0, [])


@pytest.mark.parametrize("way", WAYS)
async def test_a_port_in_use_ends_the_start_with_one_sentence(way: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {"RATELIMITD_REDIS_URL": "unix:///nowhere.sock", "RATELIMITD_METRICS_LISTEN": address}
        status, output = await run(*arguments_of(way, tmp_path), env=env)
    assert status == 1
    assert output == (
        f"ratelimitd: RATELIMITD_METRICS_LISTEN: cannot listen on {address}: Address already in use; use "
        "another port, since each replica on a machine needs its own, or `off`\n"
    )


async def test_printing_the_configuration_of_envoy_needs_no_free_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("RATELIMITD_METRICS_LISTEN", f"127.0.0.1:{taken.getsockname()[1]}")
        _, _, config, *_ = arguments_of("inside", tmp_path)
        assert (await command.run("envoy", "--config", config, "--print")).status == 0


@pytest.mark.parametrize("way", ["grpcio", "fast"])
async def test_scrapes_are_answered_while_the_service_leaves_and_drains(
    way: str, tmp_path: Path, store: Redis, store_url: str
) -> None:
    """A call that waits for the store keeps the drain from ending."""
    flags = ("--leave-s", "300", "--drain-s", "60", "--store-timeout-ms", "10000")
    async with replica(way, tmp_path, store_url, *flags) as up:
        target = json.loads(up.lines)["address"]
        await command.run("check", "--path", "/", "--target", target)
        await store.client_pause(60_000, all=False)
        check = ("check", "--path", "/", "--target", target, "--timeout-s", "60")
        call = asyncio.create_task(command.run(*check))

        async def call_waits() -> bool:
            return "\nratelimitd_in_flight 1.0\n" in (await up.get("/metrics")).text

        try:
            await eventually(call_waits, "the call waits for the store")
            up.process.send_signal(signal.SIGTERM)
            await line_with(up.process, '"leaving"')

            async def leaves() -> bool:
                return await up.health() == (503, '{"status":"leaving"}')

            await eventually(leaves, "health says that the service leaves")
            assert await call_waits()
            up.process.send_signal(signal.SIGINT)
            await line_with(up.process, '"draining"')
            assert await call_waits()
            assert await leaves()
        finally:
            await store.client_unpause()
        assert (await call).status == 0
        assert (await end_of(up.process))[0] == 0
    with pytest.raises(httpx.ConnectError):
        await up.health()
