"""Opens traces if the variables of OpenTelemetry turn them on, and imports OpenTelemetry only then."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ratelimitd.errors import MissingExtraError
from ratelimitd.telemetry.traces.variables import missing_extra, trace_export
from ratelimitd.telemetry.traces.wrappers import NoTraces, Traces


@asynccontextmanager
async def open_traces(environ: Mapping[str, str], replica_id: str) -> AsyncIterator[Traces]:
    """Yields the wrappers for the OTEL_* variables. Spans that are left are sent at the end of the block.

    Raises SettingsError or MissingExtraError.
    """
    export = trace_export(environ)
    if export is None:
        yield NoTraces()
        return
    try:
        from ratelimitd.telemetry.traces.exporting import exporting  # noqa: PLC0415 - its library is an extra
        from ratelimitd.telemetry.traces.recorded import RecordedTraces  # noqa: PLC0415 - the same
    except ImportError as error:
        raise MissingExtraError(missing_extra(error.name)) from error
    async with exporting(export, replica_id) as provider:
        yield RecordedTraces(provider)
