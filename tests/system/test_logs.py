"""Tests of what a log line contains, and of what it must not contain."""

import json
from collections.abc import Iterator

import pytest
import structlog

from ratelimitd.telemetry.logs import configure_logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_a_line_is_json_with_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("warning")
    log = structlog.get_logger("test")
    log.info("quiet")
    log.warning("loud", answer=42)
    captured = capsys.readouterr()
    line = json.loads(captured.err)
    assert (line["event"], line["level"], line["answer"]) == ("loud", "warning", 42)
    assert line["timestamp"].endswith("Z")
    assert captured.out == ""


def test_a_traceback_does_not_show_the_values_of_variables(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info")
    _break("hunter-" + str(2))
    line = capsys.readouterr().err
    assert "ZeroDivisionError" in line
    assert "test_logs.py" in line
    assert "hunter-2" not in line


def _break(password: str) -> None:
    try:
        assert len(password) / 0
    except ZeroDivisionError:
        structlog.get_logger("test").exception("broke")
