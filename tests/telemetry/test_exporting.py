"""The pipeline of spans, built by the SDK from its variables."""

import logging

import pytest
from structlog.testing import capture_logs

from ratelimitd import __version__
from ratelimitd.errors import SettingsError
from ratelimitd.telemetry.traces.exporting import exporting
from ratelimitd.telemetry.traces.sdk_messages import messages_in_our_log
from ratelimitd.telemetry.traces.variables import TraceExport

CONSOLE = TraceExport(("console",), "http/protobuf")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


async def test_all_spans_name_the_service_and_its_replica() -> None:
    async with exporting(CONSOLE, "host:1:abc") as provider:
        attributes = provider.resource.attributes
    assert attributes["service.name"] == "ratelimitd"
    assert attributes["service.version"] == __version__
    assert attributes["ratelimitd.replica"] == "host:1:abc"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SERVICE_NAME", "limits"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=limits,service.version=7,deployment.environment.name=x"),
    ],
)
async def test_variables_win_over_our_attributes(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with exporting(CONSOLE, "") as provider:
        assert provider.resource.attributes["service.name"] == "limits"


async def test_a_value_that_only_the_sdk_rejects_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "-3")
    with pytest.raises(SettingsError, match=r"OTEL_\* variable has a bad value: OTEL_SPAN_LINK_COUNT_LIMIT"):
        async with exporting(CONSOLE, ""):
            pass


async def test_any_error_of_the_sdk_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate")  # an error of a class of its own
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_COMPRESSION"):
        async with exporting(TraceExport(("otlp",), "grpc"), ""):
            pass


async def test_a_detector_of_the_process_records_no_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    monkeypatch.setattr("sys.orig_argv", ["python", "--redis-url", "redis://:hunter2@cache"])
    async with exporting(CONSOLE, "") as provider:
        attributes = provider.resource.attributes
    assert "process.pid" in attributes
    assert "hunter2" not in str(attributes)


def test_messages_of_opentelemetry_are_bounded_lines_of_our_log() -> None:
    logger = logging.getLogger("opentelemetry.exporter")
    with capture_logs() as lines, messages_in_our_log():
        logger.info("quiet")
        for number in range(100):
            logger.warning("no answer %d", number)
    logger.warning("after the end")
    assert len(lines) == 6
    assert (lines[0]["event"], lines[0]["message"], lines[0]["log_level"]) == (
        "opentelemetry",
        "no answer 0",
        "warning",
    )


def test_a_message_with_an_exception_has_no_traceback() -> None:
    with capture_logs() as lines, messages_in_our_log():
        logging.getLogger("opentelemetry").error("failed:", exc_info=ValueError("x" * 1000))
    assert lines[0]["message"].startswith("failed: xxx")
    assert len(lines[0]["message"]) == 300
    assert "exc_info" not in lines[0]
