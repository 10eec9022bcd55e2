"""Tests of what a log line contains, and of what it must not contain."""

import asyncio
import io
import json
import logging
import os
import pty
import re
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence

import pytest
import structlog

from ratelimitd.process.loopback import free_port
from ratelimitd.telemetry.logs import LogFormat, configure_logs
from tests.eventually import WAIT_S

HOSTILE = "a\x1b[31m\u202e\n</script>\r\u2028\udcff\x7f\x9b\x00"
"""A value with control characters, a mark that turns the direction of text, and a byte outside UTF-8."""


class _Stderr(io.StringIO):
    """Standard error, on a terminal or not."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    handlers = logging.getLogger().handlers[:]
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


def written(
    monkeypatch: pytest.MonkeyPatch,
    form: LogFormat,
    *,
    terminal: bool = False,
    value: str = "x",
    level: str = "info",
) -> str:
    """Returns what is written of three events: a quiet one, a loud one with a value, and an exception."""
    stderr = _Stderr(terminal=terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    configure_logs(level, form)
    log = structlog.get_logger("test")
    log.info("quiet")
    log.warning("loud", value=value, word=value.replace("\n", "").replace("\r", ""))
    _break(log, value)
    return stderr.getvalue()


def _break(log: structlog.stdlib.BoundLogger, password: str) -> None:
    try:
        _fail(password[:12])
    except ValueError:
        log.exception("broke")


def _fail(text: str) -> None:
    raise ValueError(text)


@pytest.mark.parametrize("terminal", [False, True])
def test_json_is_one_object_per_line_with_level_and_time(
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    text = written(monkeypatch, "json", terminal=terminal, value=HOSTILE)
    quiet, loud, broke = (json.loads(line) for line in text.splitlines())
    assert (quiet["event"], quiet["level"]) == ("quiet", "info")
    assert (loud["event"], loud["level"], loud["value"]) == ("loud", "warning", HOSTILE)
    assert loud["timestamp"].endswith("Z")
    assert broke["exception"][0]["exc_type"] == "ValueError"
    assert broke["exception"][0]["frames"][0]["name"] == "_break"
    assert re.search(r"[^\n -~]", text) is None


@pytest.mark.parametrize("terminal", [False, True])
def test_no_value_controls_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
    terminal: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    value = HOSTILE.replace("31", "")  # so that the only colours are of the log itself
    text = written(monkeypatch, "console", terminal=terminal, value=value)
    text = re.sub(r"\x1b\[[0-9]+m", "", text)
    assert re.search(r"[^\n -~]", text) is None
    assert len([line for line in text.splitlines() if "loud" in line and r"\u202e\n" in line]) == 1
    assert "Traceback (most recent call last):" in text


@pytest.mark.parametrize(
    ("form", "terminal", "variable", "begins_with"),
    [
        ("auto", False, "", "{"),
        ("auto", True, "", "\x1b[2m2"),
        ("console", False, "", "2"),
        ("console", True, "", "\x1b[2m2"),
        ("console", True, "NO_COLOR=1", "2"),
        ("console", True, "NO_COLOR=", "\x1b[2m2"),
        ("console", True, "TERM=dumb", "2"),
        ("auto", True, "NO_COLOR=1", "2"),
        ("json", True, "", "{"),
    ],
)
def test_the_form_depends_on_the_setting_and_on_the_terminal(
    monkeypatch: pytest.MonkeyPatch,
    form: LogFormat,
    terminal: bool,  # noqa: FBT001 - pytest passes it by name
    variable: str,
    begins_with: str,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    if variable:
        monkeypatch.setenv(*variable.split("="))
    text = written(monkeypatch, form, terminal=terminal)
    assert text.startswith(begins_with)
    assert ("\x1b" in text) == ("\x1b" in begins_with)


@pytest.mark.parametrize("form", ["json", "console"])
def test_quiet_events_are_left_out_and_tracebacks_have_no_values_of_variables(
    monkeypatch: pytest.MonkeyPatch, form: LogFormat
) -> None:
    text = written(monkeypatch, form, value="wrong number hunter-2", level="error")
    assert "quiet" not in text
    assert "loud" not in text
    assert "test_logs.py" in text
    assert "hunter-2" not in text


def test_messages_of_libraries_have_the_same_form_and_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = _Stderr(terminal=False)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's would fail on the first message
    monkeypatch.setattr(logging, "_warnings_showwarning", None)  # as if logging had no warnings yet
    configure_logs("info", "json")
    with warnings.catch_warnings(action="always"):
        warnings.warn("old\nways", stacklevel=1)
    library = logging.getLogger("test.library")
    library.warning("%d too many", HOSTILE)
    for number in range(20):
        library.error("broken %d", number)
    warned, first, *others = (json.loads(line) for line in stderr.getvalue().splitlines())
    assert (warned["event"], warned["library"]) == ("library_warning", "py.warnings")
    assert "old\nways" in warned["message"]
    assert first == {
        "event": "library_warning",
        "level": "warning",
        "library": "test.library",
        "message": "%d too many",
        "timestamp": first["timestamp"],
    }
    assert [line["message"] for line in others] == [f"broken {number}" for number in range(6)]


@pytest.mark.parametrize(
    ("arguments", "events"),
    [
        (("serve", "--transport", "fast"), {"listening", "policy_in_force"}),
        (("admin",), {"admin_listening"}),
    ],
    ids=["serve", "admin"],
)
async def test_each_server_obeys_the_form_on_a_terminal(
    arguments: Sequence[str], events: set[str], store_url: str
) -> None:
    """With fast, `listening` comes from one process and `policy_in_force` from another one."""
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("LISTEN", "ADMIN_LISTEN", "METRICS_LISTEN")}
    env = {f"RATELIMITD_{name}": value for name, value in ports.items()}
    env |= {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_LOG_FORMAT": "json"}
    lines = await lines_on_a_terminal(arguments, env, until={f'"{event}"' for event in events})
    assert events <= {json.loads(line)["event"] for line in lines}


async def lines_on_a_terminal(
    arguments: Sequence[str], env: dict[str, str], until: set[str]
) -> Sequence[str]:
    """Runs `ratelimitd` on a terminal until these words have been written. Returns all lines."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "ratelimitd", *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | env,
    )
    os.close(theirs)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", 0)
    )
    text = ""
    try:
        async with asyncio.timeout(WAIT_S):
            while not all(word in text for word in until):
                text += (await reader.readline()).decode()
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
        transport.close()
    return text.splitlines()
