"""The standard OTEL_* variables: whether they turn traces on, and which of them have a bad value.

The SDK of OpenTelemetry reads the variables itself, but it replaces a bad value by a default and logs that.
Here a bad value is an error at the start. No error shows a value that may contain a password.
"""

import os
import re
from collections.abc import Iterator, Mapping, MutableMapping
from importlib.util import find_spec
from typing import NamedTuple
from urllib.parse import urlsplit

from ratelimitd.errors import MissingExtraError, SettingsError

EXPORTERS = ("otlp", "console")
PROTOCOLS = ("http/protobuf", "grpc")
SAMPLERS = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
COMPRESSIONS = {"http/protobuf": ("none", "gzip", "deflate"), "grpc": ("none", "gzip")}

_FILES = ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
_COUNTS = {
    "OTEL_BSP_MAX_QUEUE_SIZE": 2048,
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": 512,
    "OTEL_BSP_SCHEDULE_DELAY": 5000,
    "OTEL_BSP_EXPORT_TIMEOUT": 30000,
}
"""Variables that hold a whole number above 0, with the SDK's defaults. Times are in milliseconds."""


class TraceExport(NamedTuple):
    """Where spans go.

    Args:
        exporters: some of EXPORTERS.
        protocol: the one of PROTOCOLS that `otlp` uses.
    """

    exporters: tuple[str, ...]
    protocol: str


def trace_export(environ: Mapping[str, str]) -> TraceExport | None:
    """Returns where spans go, or None if traces are off.

    OTEL_TRACES_EXPORTER or an endpoint of OTLP turns them on; OTEL_SDK_DISABLED=true turns them off. Raises
    SettingsError with all problems, one per line, and MissingExtraError.
    """
    variables = _Variables(environ)
    if variables.get("OTEL_SDK_DISABLED").lower() == "true":
        return None
    endpoint = variables.get(*_otlp("ENDPOINT"))
    named = variables.get("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    exporters = tuple(dict.fromkeys(name.strip().lower() for name in named.split(",")))
    if exporters == ("none",):
        return None
    problems = [
        *_exporter_problems(exporters),
        *_otlp_problems(variables),
        *_sampler_problems(variables),
        *_batch_problems(variables),
    ]
    if problems:
        raise SettingsError("\n".join(problems))
    if not _is_installed("opentelemetry.sdk"):
        raise MissingExtraError(missing_extra("opentelemetry.sdk"))
    return TraceExport(exporters, variables.protocol)


def missing_extra(module: str | None) -> str:
    """Returns the sentence for a module of the extra that is not installed."""
    return (
        f"traces need {module}: pip install 'ratelimitd[otel]'; or set OTEL_TRACES_EXPORTER=none to run "
        "without traces"
    )


def prepare_environment(environ: MutableMapping[str, str]) -> None:
    """Checks the variables at the start, and makes them ready for the SDK and for child processes.

    The SDK takes an empty variable, which Compose sets for `${NAME:-}`, for a value. So variables without a
    value are removed, and white space around values too. Raises SettingsError and MissingExtraError.
    """
    export = trace_export(environ)
    if export is None:
        return
    for name in [name for name in environ if name.startswith("OTEL_")]:
        environ[name] = environ[name].strip()
        if not environ[name]:
            del environ[name]
    if export.protocol == "grpc":
        # grpc would write lines of its own about failed connections, which are not JSON.
        environ.setdefault("GRPC_VERBOSITY", "NONE")


class _Variables:
    """Variables without the white space around their values; an empty one counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, *names: str) -> str:
        """Returns the value of the first variable that is set, or an empty text."""
        return next((value for name in names if (value := self._environ.get(name, "").strip())), "")

    def each(self, *names: str) -> Iterator[tuple[str, str]]:
        """Yields the variables that are set, with their values."""
        for name in names:
            if value := self.get(name):
                yield name, value

    @property
    def protocol(self) -> str:
        """The protocol of OTLP. The default is the one in the specification."""
        return self.get(*_otlp("PROTOCOL")).lower() or PROTOCOLS[0]


def _otlp(name: str) -> tuple[str, str]:
    """The two variables for a property of the exporter. The one for traces wins."""
    return f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"


def _exporter_problems(exporters: tuple[str, ...]) -> Iterator[str]:
    for name in exporters:
        if name not in EXPORTERS:
            expected = f"{' or '.join(EXPORTERS)}, or none alone"
            yield f"OTEL_TRACES_EXPORTER names {name!r}; expected {expected}"


def _otlp_problems(variables: _Variables) -> Iterator[str]:
    compressions = COMPRESSIONS.get(variables.protocol, ())
    for what, known in (("PROTOCOL", PROTOCOLS), ("COMPRESSION", compressions)):
        for name, value in variables.each(*_otlp(what)):
            if known and value.lower() not in known:
                yield f"{name} is {value!r}; expected {_one_of(known)}"
    for name, value in variables.each(*_otlp("ENDPOINT")):
        yield from _endpoint_problems(name, value, variables.protocol)
    yield from _file_problems(variables)
    for name, value in variables.each(*_otlp("TIMEOUT")):
        if not _is_number(value, at_least=0.001, at_most=1e6):
            yield f"{name} is {value!r}; expected seconds above 0"
    for name, value in variables.each(*_otlp("HEADERS")):
        if any("=" not in pair for pair in value.split(",") if pair.strip()):
            yield f"{name} is not a list of headers; expected NAME=VALUE,NAME=VALUE"


def _file_problems(variables: _Variables) -> Iterator[str]:
    for name, value in variables.each(*(variable for what in _FILES for variable in _otlp(what))):
        if not os.access(value, os.R_OK):
            yield f"{name} is {value!r}, which cannot be read; expected a PEM file"


def _endpoint_problems(name: str, value: str, protocol: str) -> Iterator[str]:
    port = 4317 if protocol == "grpc" else 4318
    shown = "" if "@" in value else f" {value!r}"  # it may contain a password
    # gRPC also accepts HOST:PORT.
    url = value if "://" in value or protocol != "grpc" else f"http://{value}"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or re.search(r"\s", value):
        yield f"{name}{shown} is not a valid URL; expected http://HOST:{port} or https://HOST:{port}"


def _sampler_problems(variables: _Variables) -> Iterator[str]:
    sampler = variables.get("OTEL_TRACES_SAMPLER").lower()
    if sampler and sampler not in SAMPLERS:
        yield f"OTEL_TRACES_SAMPLER is {sampler!r}; expected {_one_of(SAMPLERS)}"
    argument = variables.get("OTEL_TRACES_SAMPLER_ARG")
    if sampler.endswith("traceidratio") and argument and not _is_number(argument, at_least=0, at_most=1):
        yield f"OTEL_TRACES_SAMPLER_ARG is {argument!r}; expected a ratio from 0 to 1, such as 0.01"


def _batch_problems(variables: _Variables) -> Iterator[str]:
    counts = dict(_COUNTS)
    for name, value in variables.each(*_COUNTS):
        if re.fullmatch("[0-9]{1,9}", value) and int(value):
            counts[name] = int(value)
        else:
            yield f"{name} is {value!r}; expected a whole number above 0"
    if counts["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] > counts["OTEL_BSP_MAX_QUEUE_SIZE"]:
        yield (
            f"OTEL_BSP_MAX_EXPORT_BATCH_SIZE is {counts['OTEL_BSP_MAX_EXPORT_BATCH_SIZE']}; expected at most "
            f"OTEL_BSP_MAX_QUEUE_SIZE, which is {counts['OTEL_BSP_MAX_QUEUE_SIZE']}"
        )


def _one_of(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _is_number(text: str, *, at_least: float, at_most: float) -> bool:
    try:
        return at_least <= float(text) <= at_most  # false for nan
    except ValueError:
        return False


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that should contain it
        return False
