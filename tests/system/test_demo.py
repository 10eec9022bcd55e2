"""Tests of the output of `ratelimitd demo`, and of what it leaves behind."""

import os
import re
import signal
from asyncio.subprocess import Process
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimitd.process.loopback import free_port
from tests.eventually import eventually
from tests.system import command
from tests.system.processes import command_line, end_of, left_running, line_with, run, started


@pytest.mark.parametrize("url", ["foo", "redis://localhost/0?foo=bar"])
async def test_an_invalid_store_url_is_one_sentence(url: str) -> None:
    done = await command.run("demo", "--once", "--port", str(free_port()), "--redis-url", url)
    assert done.status == 1
    assert done.err.splitlines()[-1].startswith("ratelimitd: ")
    assert "Traceback" not in done.out + done.err


async def test_an_unreachable_store_is_one_sentence() -> None:
    url = "unix:///nowhere.sock"
    status, output = await run("demo", "--once", "--port", str(free_port()), "--redis-url", url)
    assert status == 1
    assert output.splitlines()[-1].startswith("ratelimitd: ")
    assert "Traceback" not in output


async def test_one_run_shows_the_counts_and_leaves_the_store_as_it_was(
    tmp_path: Path, store_url: str, store: Redis
) -> None:
    """The demo ignores the settings in its environment."""
    env = {"TMPDIR": str(tmp_path), "RATELIMITD_KEY_PREFIX": "mine", "http_proxy": "http://127.0.0.1:1"}
    arguments = ("demo", "--once", "--port", str(free_port()), "--redis-url", store_url)
    async with started(*arguments, env=env) as process:
        await assert_counts_are_shown(process)
        await assert_clean_end(process, tmp_path)
    assert await store.get("rate_limit:config") is None


async def test_ctrl_c_ends_the_demo_and_leaves_nothing(tmp_path: Path) -> None:
    async with started("demo", "--port", str(free_port()), env={"TMPDIR": str(tmp_path)}) as process:
        await assert_counts_are_shown(process)
        await line_with(process, "Ctrl-C stops everything")
        process.send_signal(signal.SIGINT)
        await assert_clean_end(process, tmp_path)


async def test_traffic_reaches_the_replicas_until_ctrl_c_and_leaves_the_store_without_limits(
    tmp_path: Path, store_url: str, store: Redis
) -> None:
    arguments = ("demo", "--traffic", "--port", str(free_port()), "--redis-url", store_url)
    async with started(*arguments, env={"TMPDIR": str(tmp_path)}) as process:
        line = await line_with(process, "Dashboard: ")
        assert re.fullmatch(r"Dashboard: http://127\.0\.0\.1:\d+/admin \(key: [0-9a-f]{32}\)\n", line)
        await line_with(process, "Ctrl-C stops everything")

        async def charged() -> bool:
            return len(await store.keys("rate:user:demo-*:api:/api/orders")) > 3

        await eventually(charged, "buckets of users of the traffic")
        process.send_signal(signal.SIGINT)
        await assert_clean_end(process, tmp_path)
    assert await store.get("rate_limit:config") is None


async def test_traffic_that_would_end_at_once_is_refused() -> None:
    done = await command.run("demo", "--once", "--traffic")
    assert done.status == 2
    assert "leave out --once" in done.err


async def test_a_signal_to_the_process_group_ends_the_demo_in_order(tmp_path: Path) -> None:
    """`timeout` and service managers send SIGTERM to the store too."""
    async with started("demo", "--port", str(free_port()), env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, "Ctrl-C stops everything")
        os.killpg(process.pid, signal.SIGTERM)
        await assert_clean_end(process, tmp_path)


async def assert_counts_are_shown(process: Process) -> None:
    """Waits for the line about the denials."""
    assert await line_with(process, "7 x 429") == '7 x 429: {"error":"rate limit exceeded"}\n'


async def assert_clean_end(process: Process, folder: Path) -> None:
    """Waits for the end. No process and no file is left behind."""
    status, rest = await end_of(process)
    assert status == 0, rest
    assert "Traceback" not in rest
    assert list(folder.iterdir()) == []
    assert left_running(str(folder)) == {}


async def test_the_demo_names_the_part_that_ended(tmp_path: Path) -> None:
    async with started("demo", "--port", str(free_port()), env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, "Ctrl-C stops everything")
        front = [pid for pid in left_running(str(tmp_path)) if "envoy.yaml" in command_line(pid)]
        assert len(front) == 1
        os.kill(front[0], signal.SIGKILL)
        status, rest = await end_of(process)
    assert status == 1
    assert rest.endswith("ratelimitd: envoy ended by itself\n")
    assert left_running(str(tmp_path)) == {}


async def test_the_demo_keeps_the_users_limits(store_url: str, store: Redis) -> None:
    await store.set("rate_limit:config", '{"mine":1}')
    status, output = await run("demo", "--once", "--redis-url", store_url, "--port", str(free_port()))
    assert status == 0
    assert '{"mine":1}' in output
    assert await store.get("rate_limit:config") == b'{"mine":1}'
