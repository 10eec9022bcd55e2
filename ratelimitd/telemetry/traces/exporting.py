"""Exports spans with the SDK of OpenTelemetry, which reads its OTEL_* variables itself.

Spans wait in a queue of a fixed size, which a thread empties. When it is full, spans are dropped.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from threading import Thread

import structlog
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from ratelimitd import __version__
from ratelimitd.errors import SettingsError
from ratelimitd.telemetry.traces.sdk_messages import messages_in_our_log
from ratelimitd.telemetry.traces.variables import TraceExport

FLUSH_S = 2.0
"""How long the spans that are left may delay the exit of the process."""

SERVICE_NAME = "ratelimitd"


@asynccontextmanager
async def exporting(export: TraceExport, replica_id: str) -> AsyncIterator[TracerProvider]:
    """Yields the source of tracers. At the end, spans that are left have FLUSH_S seconds to leave.

    Args:
        export: where spans go.
        replica_id: the id of this replica, which all its spans carry.

    Raises SettingsError.
    """
    log = structlog.get_logger("ratelimitd.traces")
    with messages_in_our_log():
        try:
            exporters = list(_exporters(export))
            provider = TracerProvider(resource=_resource(replica_id), shutdown_on_exit=False)
            for exporter in exporters:
                provider.add_span_processor(BatchSpanProcessor(exporter))
        except Exception as error:  # the SDK's errors have no common base
            raise SettingsError(f"an OTEL_* variable has a bad value: {error}") from error
        log.info("traces", exporters=list(export.exporters), sampler=provider.sampler.get_description())
        try:
            yield provider
        finally:
            # In a thread, because a collector that does not answer would keep it for half a minute.
            flush = Thread(target=provider.shutdown, daemon=True)
            flush.start()
            await asyncio.to_thread(flush.join, FLUSH_S)
            if flush.is_alive():
                log.warning("spans_lost", reason=f"the collector did not take them within {FLUSH_S:g} s")
                for exporter in exporters:
                    exporter.shutdown()  # ends its pauses between two attempts


def _exporters(export: TraceExport) -> Iterator[SpanExporter]:
    for name in export.exporters:
        if name == "console":
            yield ConsoleSpanExporter(formatter=_line)
        elif export.protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - takes 17 MB
                OTLPSpanExporter as GrpcExporter,
            )

            yield GrpcExporter()
        else:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - only if used
                OTLPSpanExporter as HttpExporter,
            )

            yield HttpExporter()


def _line(span: ReadableSpan) -> str:
    return f"{json.dumps(json.loads(span.to_json()))}\n"


def _resource(replica_id: str) -> Resource:
    """The attributes of all spans. OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win over our values."""
    ours = Resource({"service.version": __version__, "ratelimitd.replica": replica_id})
    resource = ours.merge(Resource.create())
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": SERVICE_NAME}))
    return resource
