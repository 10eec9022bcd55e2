"""Tests of the output of `ratelimitd serve` and `health`, and of what they leave behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.main import get_command

from ratelimitd import __version__
from ratelimitd.cli.main import app
from ratelimitd.cli.store import with_control
from ratelimitd.control.control import Control
from ratelimitd.process.loopback import free_port
from ratelimitd.settings import Settings
from tests.eventually import eventually
from tests.system import command
from tests.system.command import Result, without_log_settings
from tests.system.processes import end_of, left_running, line_with, run, started

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("transport", ["grpcio", "fast"])
WITHOUT_PYVOY = "import sys; sys.modules['pyvoy'] = None; from ratelimitd.cli.main import main; main()"
CHECK = "/envoy.service.auth.v3.Authorization/Check"


async def test_version_prints_the_version_of_the_package() -> None:
    assert await command.run("--version") == Result(0, f"ratelimitd {__version__}\n", "")


async def test_help_shows_the_first_steps() -> None:
    shown = await command.run()
    for hint in ("ratelimitd demo", "ratelimitd serve --redis-url", "rate_limit:config"):
        assert hint in shown.out + shown.err


def test_the_options_of_serve_are_the_settings() -> None:
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined] # the root command is a group
    assert [parameter.name for parameter in serve.params] == [
        name for name in Settings.model_fields if not name.startswith(("admin_", "check_"))
    ]


def test_what_a_command_logs_does_not_mix_with_its_answer(capsys: pytest.CaptureFixture[str]) -> None:
    async def log(_control: Control) -> None:
        structlog.get_logger("ratelimitd.store").warning("master_changed")

    with without_log_settings():
        with_control({}, log)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "master_changed" in shown.err


async def test_serve_rejects_an_unknown_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATELIMITD_LISTN", "x")
    sentence = "ratelimitd: unknown setting RATELIMITD_LISTN; did you mean RATELIMITD_LISTEN?\n"
    assert await command.run("serve") == Result(1, "", sentence)


async def test_serve_rejects_a_bad_value() -> None:
    done = await command.run("serve", "--store-timeout-ms", "fast")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("ratelimitd: RATELIMITD_STORE_TIMEOUT_MS is 'fast': must be a whole number")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("serve", "--log-format", "JSON", "--store-timeout-ms", "fast"), "RATELIMITD_STORE_TIMEOUT_MS is"),
        (("admin", "--admin-listen", "unix:/x"), "RATELIMITD_ADMIN_LISTEN is 'unix:/x'"),
        (("envoy", "--config", "/nowhere"), "--config /nowhere: "),
    ],
    ids=["serve", "admin", "envoy"],
)
async def test_an_error_at_the_start_is_a_line_of_json_if_the_log_is(
    arguments: tuple[str, ...], reason: str
) -> None:
    env = {} if "--log-format" in arguments else {"RATELIMITD_LOG_FORMAT": "json"}
    status, output = await run(*arguments, env=env)
    line = json.loads(output)
    assert (status, line["event"], line["level"]) == (1, "failed", "error")
    assert line["reason"].startswith(reason)
    assert "exception" not in line


@BOTH
async def test_a_port_in_use_is_one_sentence(transport: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        serve = await run(
            "serve", "--transport", transport, "--listen", f"127.0.0.1:{port}", "--log-level", "error"
        )
        demo = await run("demo", "--port", port)
    sentence = f"ratelimitd: cannot listen on 127.0.0.1:{port}: Address already in use"
    assert serve == (1, f"{sentence}\n")
    assert demo[0] == 1
    assert demo[1].endswith(f"{sentence}; choose another port with --port\n")


@BOTH
async def test_a_service_with_its_own_store_starts_answers_and_stops(tmp_path: Path, transport: str) -> None:
    env = {"TMPDIR": str(tmp_path)}
    env |= {"RATELIMITD_REDIS_PORT": "tcp://10.0.0.1:6379", "RATELIMITD_ADMIN_SERVICE_HOST": "10.0.0.2"}
    env |= {"RATELIMITD_STORE_TIMEOUT_MS": "", "RATELIMITD_LOG_LEVEL": "INFO"}
    flags = ("--redis-url", "embedded", "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", "--transport", transport, *flags, env=env) as process:
        line = json.loads(await line_with(process, '"listening"'))
        assert await command.run("health", line["address"]) == Result(0, "SERVING\n", "")
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    assert status == 0
    assert [json.loads(text)["event"] for text in output.splitlines()] == ["leaving", "draining", "stopped"]
    assert list(tmp_path.iterdir()) == []
    assert left_running(str(tmp_path)) == {}


@pytest.mark.parametrize(
    ("program", "transport", "reason"),
    [
        (["-m", "ratelimitd"], "fast", "auto: an Envoy can host this Python"),
        (
            ["-c", WITHOUT_PYVOY],
            "grpcio",
            "auto: fast cannot run: this needs pyvoy: pip install 'ratelimitd[fast]'",
        ),
    ],
)
async def test_by_default_the_transport_is_fast_where_it_can_run(
    store_url: str, program: list[str], transport: str, reason: str
) -> None:
    arguments = ("serve", "--redis-url", store_url, "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started(*arguments, program=program) as process:
        line = json.loads(await line_with(process, '"listening"'))
        assert (line["transport"], line["reason"]) == (transport, reason)
        output = (await command.run("policy", "status", "--json", "--redis-url", store_url)).out
        assert [replica["transport"] for replica in json.loads(output)["replicas"]] == [transport]
        process.send_signal(signal.SIGTERM)
        assert (await end_of(process))[0] == 0


@BOTH
async def test_ctrl_c_reaches_the_service_before_its_store(tmp_path: Path, transport: str) -> None:
    env = {"TMPDIR": str(tmp_path)}
    async with started(
        "serve", "--transport", transport, "--redis-url", "embedded", "--listen", "127.0.0.1:0", env=env
    ) as process:
        await line_with(process, '"listening"')
        os.killpg(process.pid, signal.SIGINT)
        status, output = await end_of(process)
    assert status == 0
    assert "Traceback" not in output
    assert "failed" not in output
    assert left_running(str(tmp_path)) == {}


@BOTH
async def test_logs_that_cannot_be_written_change_no_decision(transport: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    serve = f"{sys.executable} -m ratelimitd serve --transport {transport} --listen {address} --redis-url unix:///nowhere.sock"
    process = await asyncio.create_subprocess_shell(f"exec {serve} --leave-s 0 2>/dev/full")
    answer = b""

    async def answered() -> bool:
        nonlocal answer
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary(CHECK, request_serializer=bytes, response_deserializer=bytes)
            with suppress(grpc.aio.AioRpcError):
                answer = await call(b"\x0a\x04\x22\x02\x12\x00", wait_for_ready=True, timeout=10)
        return answer != b""

    try:
        await eventually(answered, "an answer, with no log to write to")
        assert b"rate limiter unavailable" in answer
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@BOTH
async def test_serve_listens_on_a_unix_socket(tmp_path: Path, transport: str) -> None:
    target = f"unix:{tmp_path}/r.sock"
    flags = ("--redis-url", f"unix://{tmp_path}/none.sock", "--listen", target, "--leave-s", "0")
    async with started("serve", "--transport", transport, *flags) as process:
        await line_with(process, '"listening"')
        assert await command.run("health", target) == Result(0, "SERVING\n", "")
        assert (await run("health", env={"RATELIMITD_LISTEN": f" {target}"})) == (0, "SERVING\n")
        process.send_signal(signal.SIGHUP)
        assert (await end_of(process))[0] == 0


@BOTH
async def test_health_turns_to_not_serving_on_sigterm(transport: str) -> None:
    flags = ("--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0", "--leave-s", "300")
    async with started("serve", "--transport", transport, *flags) as process:
        address = json.loads(await line_with(process, '"listening"'))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            process.send_signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        assert process.returncode is None
        process.send_signal(signal.SIGINT)
        assert (await end_of(process))[0] == 0


@pytest.mark.parametrize("arguments", ["serve --transport fast", "envoy --config envoy/envoy.yaml"])
def test_a_missing_library_is_one_sentence_that_says_what_to_install(arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYVOY, *arguments.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    sentence = "ratelimitd: this needs pyvoy: pip install 'ratelimitd[fast]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence)


@BOTH
async def test_files_in_the_working_directory_are_not_loaded(tmp_path: Path, transport: str) -> None:
    for file in ("notes.py", "__main__.py", "json.txt", "redis/redis.conf"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("not to be loaded")
    flags = ("--transport", transport, "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, cwd=tmp_path) as process:
        await line_with(process, '"listening"')
        process.send_signal(signal.SIGINT)
        assert (await end_of(process))[0] == 0


async def test_the_service_ends_with_its_host(tmp_path: Path) -> None:
    flags = ("--transport", "fast", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, '"listening"')
        (envoy,) = [pid for pid, name in left_running(str(tmp_path)).items() if name.endswith("/envoy")]
        os.kill(envoy, signal.SIGKILL)
        status, rest = await end_of(process)
    assert status == 1
    assert rest.endswith("ratelimitd: the host of the service ended by itself, with status -9\n")


async def test_the_host_ends_with_the_service(tmp_path: Path) -> None:
    flags = ("--transport", "fast", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, '"listening"')
        process.kill()
        await process.wait()

        async def nothing_is_left() -> bool:
            return left_running(str(tmp_path)) == {}

        await eventually(nothing_is_left, "the host ends")


async def test_health_without_a_service_ends_with_1() -> None:
    target = f"127.0.0.1:{free_port()}"
    sentence = f"ratelimitd: {target} does not answer: UNAVAILABLE\n"
    assert await command.run("health", target) == Result(1, "", sentence)


@pytest.mark.parametrize("seconds", ["-1", "nan", "soon"])
async def test_a_time_limit_that_is_not_a_number_of_seconds_is_refused(seconds: str) -> None:
    result = await command.run("health", "127.0.0.1:1", "--timeout-s", seconds)
    assert (result.status, "Invalid value for '--timeout-s'" in result.err) == (2, True)
