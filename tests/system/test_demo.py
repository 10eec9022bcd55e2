"""`ratelimitd demo`: its output, its end, and what it leaves behind."""

import os
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimitd.process.loopback import free_port
from tests.system.processes import command_line, end_of, left_running, line_with, run, started


@pytest.mark.parametrize("url", ["foo", "redis://localhost/0?foo=bar", "unix:///nowhere.sock"])
async def test_a_bad_store_is_one_sentence(url: str) -> None:
    status, output = await run("demo", "--once", "--port", str(free_port()), "--redis-url", url)
    assert status == 1
    assert output.splitlines()[-1].startswith("ratelimitd: ")
    assert "Traceback" not in output


async def test_the_demo_ignores_the_users_settings(tmp_path: Path) -> None:
    env = {"TMPDIR": str(tmp_path), "RATELIMITD_KEY_PREFIX": "mine", "http_proxy": "http://127.0.0.1:1"}
    status, output = await run("demo", "--once", "--port", str(free_port()), env=env)
    assert status == 0, output
    assert "7 x 429" in output


@pytest.mark.parametrize("ending", ["once", "ctrl-c"])
async def test_the_demo_shows_the_counts_and_leaves_nothing(tmp_path: Path, ending: str) -> None:
    arguments = ["demo", "--port", str(free_port()), *(["--once"] if ending == "once" else [])]
    async with started(*arguments, env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        text = await line_with(process, "7 x 429")
        if ending == "ctrl-c":
            await line_with(process, "Ctrl-C stops everything")
            process.send_signal(signal.SIGINT)
        status, rest = await end_of(process)
    assert (status, text) == (0, '7 x 429: {"error":"rate limit exceeded"}\n')
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
    assert left_running(str(tmp_path)) == {}


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
    arguments = ("demo", "--once", "--redis-url", store_url, "--port", str(free_port()))
    assert (await run(*arguments))[0] == 0
    assert await store.get("rate_limit:config") is None
    await store.set("rate_limit:config", '{"mine":1}')
    status, output = await run(*arguments)
    assert status == 0
    assert '{"mine":1}' in output
    assert await store.get("rate_limit:config") == b'{"mine":1}'
