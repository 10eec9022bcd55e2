"""The variables that turn traces on, and the messages about bad values."""

import sys

import pytest

from ratelimitd.errors import MissingExtraError, SettingsError
from ratelimitd.telemetry.traces.variables import TraceExport, prepare_environment, trace_export

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": " None "},
        {"OTEL_TRACES_EXPORTER": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_TRACES_EXPORTER": "none"} | ENDPOINT,
        {"OTEL_SDK_DISABLED": "TRUE"} | ENDPOINT,
        {"OTEL_SERVICE_NAME": "limits", "OTEL_TRACES_SAMPLER": "no-such"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "no-such"},
    ],
)
def test_traces_are_off(environ: dict[str, str]) -> None:
    assert trace_export(environ) is None


@pytest.mark.parametrize(
    ("environ", "exporters"),
    [
        (ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector/v1/traces"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "OTLP, console"}, ("otlp", "console")),
        ({"OTEL_TRACES_EXPORTER": "console"} | ENDPOINT, ("console",)),
        ({"OTEL_SDK_DISABLED": "false"} | ENDPOINT, ("otlp",)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"} | ENDPOINT, ("otlp",)),
        ({"OTEL_TRACES_SAMPLER": "always_on", "OTEL_TRACES_SAMPLER_ARG": "unused"} | ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x,a=b"} | ENDPOINT, ("otlp",)),
    ],
)
def test_traces_are_on(environ: dict[str, str], exporters: tuple[str, ...]) -> None:
    export = trace_export(environ)
    assert export is not None
    assert export.exporters == exporters


def test_the_variable_for_traces_wins() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    assert trace_export(environ | ENDPOINT) == TraceExport(("otlp",), "http/protobuf")


def test_an_endpoint_of_grpc_needs_no_scheme() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}
    assert trace_export(environ) == TraceExport(("otlp",), "grpc")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "names 'zipkin'; expected otlp or console, or none alone"),
        ("OTEL_TRACES_EXPORTER", "otlp,none", "names 'none'; expected otlp or console, or none alone"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "is 'http/json'; expected http/protobuf or grpc"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "is 'zstd'; expected none, gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "is not a valid URL; expected http://HOST:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "is not a valid URL"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:http", "is not a valid URL"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://collector", "is not a valid URL"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "is 'soon'; expected seconds above 0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan", "is 'nan'; expected seconds above 0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2", "is not a list of headers; expected NAME=VALUE,NAME=VALUE"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/such.pem", "is '/no/such.pem', which cannot be read"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "is 'sometimes'; expected always_on, always_off, traceidratio"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "is '0'; expected a whole number above 0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "is '5s'; expected a whole number above 0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100", "is 512; expected at most OTEL_BSP_MAX_QUEUE_SIZE, which is 100"),
    ],
)
def test_a_bad_value_is_an_error_that_says_what_would_be_right(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        trace_export(ENDPOINT | {name: value})
    assert name in str(raised.value)
    assert message in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("ratio", ["1.5", "-0.1", "nan", "10%"])
def test_a_bad_ratio_is_an_error(ratio: str) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ratio}
    with pytest.raises(SettingsError, match=f"is '{ratio}'; expected a ratio from 0 to 1"):
        trace_export(ENDPOINT | environ)


def test_a_password_in_an_endpoint_is_not_shown() -> None:
    with pytest.raises(SettingsError) as raised:
        trace_export({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://user:hunter2@collector"})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"])
def test_grpc_knows_fewer_compressions(name: str) -> None:
    environ = ENDPOINT | {name: "deflate"}
    assert trace_export(environ) is not None
    with pytest.raises(SettingsError, match=f"{name} is 'deflate'; expected none or gzip$"):
        trace_export(environ | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})


def test_all_problems_are_reported_at_once() -> None:
    environ = {"OTEL_TRACES_SAMPLER": "a", "OTEL_EXPORTER_OTLP_PROTOCOL": "b", "OTEL_BSP_MAX_QUEUE_SIZE": "c"}
    with pytest.raises(SettingsError) as raised:
        trace_export(ENDPOINT | environ)
    assert len(str(raised.value).splitlines()) == 3


def test_without_the_extra_the_error_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    assert trace_export({}) is None
    with pytest.raises(MissingExtraError, match=r"pip install 'ratelimitd\[otel\]'; or set OTEL_TRACES_EXP"):
        trace_export(ENDPOINT)


def test_the_sdk_sees_no_empty_variables() -> None:
    environ = {"OTEL_TRACES_SAMPLER": " ", "OTEL_SERVICE_NAME": " limits ", "OTHER": " "} | ENDPOINT
    prepare_environment(environ)
    assert environ == {"OTEL_SERVICE_NAME": "limits", "OTHER": " "} | ENDPOINT


def test_without_traces_the_environment_stays_as_it_is() -> None:
    environ = {"OTEL_TRACES_SAMPLER": " "}
    prepare_environment(environ)
    assert environ == {"OTEL_TRACES_SAMPLER": " "}


def test_grpc_writes_no_lines_of_its_own() -> None:
    environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"} | ENDPOINT
    prepare_environment(environ)
    assert environ["GRPC_VERBOSITY"] == "NONE"
