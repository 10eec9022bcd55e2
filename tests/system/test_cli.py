"""The command as a user runs it: what it prints, how it ends, and what it leaves behind."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.asyncio import Redis
from typer.main import get_command

from ratelimitd import __version__
from ratelimitd.cli.main import app
from ratelimitd.process.loopback import free_port
from ratelimitd.settings import Settings
from tests.waiting import WAIT_S, eventually

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("transport", ["grpcio", "fast"])
CHECK = "/envoy.service.auth.v3.Authorization/Check"


@asynccontextmanager
async def started(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    program: Sequence[str] = ("-m", "ratelimitd"),
) -> AsyncIterator[Process]:
    """`ratelimitd` with these arguments, its output in one pipe, killed if the test leaves it running."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", *program, *arguments),
        stdout=PIPE,
        stderr=STDOUT,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int | None, str]:
    """Exit status and output."""
    async with started(*arguments, env=env, cwd=cwd) as process:
        output, _ = await process.communicate()
        return process.returncode, output.decode()


async def line_with(process: Process, text: str) -> str:
    """The first line of output that holds `text`."""
    assert process.stdout is not None
    seen = ""
    async with asyncio.timeout(WAIT_S * 2):
        async for line in process.stdout:
            seen += line.decode()
            if text in line.decode():
                return line.decode()
    raise AssertionError(f"{text!r} is not in:\n{seen}")


async def end_of(process: Process) -> tuple[int | None, str]:
    """Exit status and the rest of the output."""
    output, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    return process.returncode, output.decode()


def left_running(marker: str) -> dict[int, str]:
    """Processes whose environment holds `marker`, by number and name."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "cmdline").read_text().partition("\0")[0]
        except OSError:  # it ended meanwhile, or is not ours to read
            continue
    return found


def command_line(pid: int) -> str:
    """The arguments of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_the_version_is_the_packages() -> None:
    """One line."""
    assert await run("--version") == (0, f"ratelimitd {__version__}\n")


async def test_help_teaches_what_to_do_first() -> None:
    """No arguments is the same as asking for help."""
    _, output = await run()
    for hint in ("ratelimitd demo", "ratelimitd serve --redis-url", "rate_limit:config"):
        assert hint in output


def test_every_setting_is_a_flag_of_serve_and_no_flag_is_anything_else() -> None:
    """Neither is missing, neither is left over, but for those of the admin service."""
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined] # the root command is a group
    assert [parameter.name for parameter in serve.params] == [
        name for name in Settings.model_fields if not name.startswith("admin_")
    ]


async def test_an_unknown_setting_stops_the_start_with_a_sentence() -> None:
    """No traceback."""
    status, output = await run("serve", env={"RATELIMITD_LISTN": "x"})
    assert (status, output) == (
        1,
        "ratelimitd: unknown setting RATELIMITD_LISTN; did you mean RATELIMITD_LISTEN?\n",
    )


async def test_a_bad_flag_stops_the_start_with_a_sentence() -> None:
    """It is called by its setting's name."""
    status, output = await run("serve", "--store-timeout-ms", "fast")
    assert status == 1
    assert output.startswith("ratelimitd: RATELIMITD_STORE_TIMEOUT_MS is 'fast': must be a valid integer")


@BOTH
async def test_a_port_in_use_is_a_sentence(transport: str) -> None:
    """For the service, and for the demo with a way out."""
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
    """SIGTERM ends both with status 0, and no file of theirs is left."""
    env = {"TMPDIR": str(tmp_path)}
    flags = ("--redis-url", "embedded", "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", "--transport", transport, *flags, env=env) as process:
        line = json.loads(await line_with(process, "listening"))
        assert (await run("health", line["address"])) == (0, "SERVING\n")
        process.send_signal(signal.SIGTERM)
        status, output = await end_of(process)
    assert status == 0
    assert [json.loads(text)["event"] for text in output.splitlines()] == ["leaving", "draining", "stopped"]
    assert list(tmp_path.iterdir()) == []
    assert left_running(str(tmp_path)) == {}


WITHOUT_PYVOY = "import sys; sys.modules['pyvoy'] = None; from ratelimitd.cli.main import main; main()"


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
    command = ("serve", "--redis-url", store_url, "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started(*command, program=program) as process:
        line = json.loads(await line_with(process, "listening"))
        assert (line["transport"], line["reason"]) == (transport, reason)
        _, output = await run("policy", "status", "--json", "--redis-url", store_url)
        assert [replica["transport"] for replica in json.loads(output)["replicas"]] == [transport]
        process.send_signal(signal.SIGTERM)
        assert (await end_of(process))[0] == 0


@BOTH
async def test_ctrl_c_reaches_the_service_before_its_store(tmp_path: Path, transport: str) -> None:
    """A terminal sends SIGINT to both; the store waits until its user is done."""
    env = {"TMPDIR": str(tmp_path)}
    async with started(
        "serve", "--transport", transport, "--redis-url", "embedded", "--listen", "127.0.0.1:0", env=env
    ) as process:
        await line_with(process, "listening")
        os.killpg(process.pid, signal.SIGINT)
        status, output = await end_of(process)
    assert status == 0
    assert "Traceback" not in output
    assert "failed" not in output
    assert left_running(str(tmp_path)) == {}


@BOTH
async def test_logs_that_cannot_be_written_change_nothing(transport: str) -> None:
    """A full disk behind standard error loses lines, not decisions."""
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


@pytest.mark.parametrize("url", ["foo", "redis://localhost/0?foo=bar", "unix:///nowhere.sock"])
async def test_a_bad_store_for_the_demo_is_a_sentence(url: str) -> None:
    """No traceback."""
    status, output = await run("demo", "--once", "--port", str(free_port()), "--redis-url", url)
    assert status == 1
    assert output.splitlines()[-1].startswith("ratelimitd: ")
    assert "Traceback" not in output


async def test_the_demo_does_not_listen_to_settings_of_yours(tmp_path: Path) -> None:
    """Its replicas are its own."""
    env = {"TMPDIR": str(tmp_path), "RATELIMITD_KEY_PREFIX": "mine", "http_proxy": "http://127.0.0.1:1"}
    status, output = await run("demo", "--once", "--port", str(free_port()), env=env)
    assert status == 0, output
    assert "7 x 429" in output


@BOTH
async def test_it_serves_on_a_unix_socket(tmp_path: Path, transport: str) -> None:
    """The health command reaches it by the same name."""
    target = f"unix:{tmp_path}/r.sock"
    flags = ("--redis-url", f"unix://{tmp_path}/none.sock", "--listen", target, "--leave-s", "0")
    async with started("serve", "--transport", transport, *flags) as process:
        await line_with(process, "listening")
        assert (await run("health", target)) == (0, "SERVING\n")
        assert (await run("health", env={"RATELIMITD_LISTEN": target})) == (0, "SERVING\n")
        process.send_signal(signal.SIGHUP)
        assert (await end_of(process))[0] == 0


@BOTH
async def test_on_sigterm_health_turns_before_the_end(transport: str) -> None:
    """Who watches learns of it from the service itself, which SIGINT then ends at once."""
    flags = ("--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0", "--leave-s", "300")
    async with started("serve", "--transport", transport, *flags) as process:
        address = json.loads(await line_with(process, "listening"))["address"]
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
def test_without_its_library_a_sentence_says_what_to_install(arguments: str) -> None:
    """No traceback, and before anything is started."""
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
async def test_other_files_in_the_working_directory_do_no_harm(tmp_path: Path, transport: str) -> None:
    """Those that no module is called like, what `python .` runs, and folders that hold no Python."""
    for file in ("notes.py", "__main__.py", "json.txt", "redis/redis.conf"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("not to be loaded")
    flags = ("--transport", transport, "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, cwd=tmp_path) as process:
        await line_with(process, "listening")
        process.send_signal(signal.SIGINT)
        assert (await end_of(process))[0] == 0


async def test_the_service_ends_with_its_host(tmp_path: Path) -> None:
    """And says so: what supervises the service starts both again."""
    flags = ("--transport", "fast", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, "listening")
        (envoy,) = [pid for pid, name in left_running(str(tmp_path)).items() if name.endswith("/envoy")]
        os.kill(envoy, signal.SIGKILL)
        status, rest = await end_of(process)
    assert status == 1
    assert rest.endswith("ratelimitd: the host of the service ended by itself, with status -9\n")


async def test_the_host_ends_with_the_service(tmp_path: Path) -> None:
    """However the service ends: an Envoy without its supervisor would hold the port for ever."""
    flags = ("--transport", "fast", "--redis-url", "unix:///nowhere.sock", "--listen", "127.0.0.1:0")
    async with started("serve", *flags, env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, "listening")
        process.kill()
        await process.wait()

        async def nothing_is_left() -> bool:
            return left_running(str(tmp_path)) == {}

        await eventually(nothing_is_left, "the host ends")


async def test_health_of_nobody_is_a_sentence_and_status_1() -> None:
    """For a container's health check."""
    target = f"127.0.0.1:{free_port()}"
    assert await run("health", target) == (1, f"ratelimitd: {target} does not answer: UNAVAILABLE\n")


@pytest.mark.parametrize("ending", ["once", "ctrl-c"])
async def test_the_demo_shows_the_counts_and_leaves_nothing(tmp_path: Path, ending: str) -> None:
    """Three of ten pass; afterwards no process and no file is left."""
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


async def test_the_demo_says_which_of_its_parts_ended(tmp_path: Path) -> None:
    """And stops the others."""
    async with started("demo", "--port", str(free_port()), env={"TMPDIR": str(tmp_path)}) as process:
        await line_with(process, "Ctrl-C stops everything")
        front = [pid for pid in left_running(str(tmp_path)) if "envoy.yaml" in command_line(pid)]
        assert len(front) == 1
        os.kill(front[0], signal.SIGKILL)
        status, rest = await end_of(process)
    assert status == 1
    assert rest.endswith("ratelimitd: envoy ended by itself\n")
    assert left_running(str(tmp_path)) == {}


async def test_the_demo_leaves_limits_of_yours_alone(store_url: str, store: Redis) -> None:
    """In a store of yours it only sets limits where there are none, and takes them back."""
    arguments = ("demo", "--once", "--redis-url", store_url, "--port", str(free_port()))
    assert (await run(*arguments))[0] == 0
    assert await store.get("rate_limit:config") is None
    await store.set("rate_limit:config", '{"mine":1}')
    status, output = await run(*arguments)
    assert status == 0
    assert '{"mine":1}' in output
    assert await store.get("rate_limit:config") == b'{"mine":1}'
