"""A receiver of OTLP over HTTP and gRPC, like a collector. It keeps the spans that it gets.

It runs in threads, so it also answers while the event loop of a test is busy.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, NamedTuple

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from ratelimitd.process.loopback import LOOPBACK
from tests.eventually import eventually


class SpanId(NamedTuple):
    """The ids of a span, in hexadecimal digits."""

    trace: str
    span: str


@dataclass(frozen=True)
class Span:
    """A span as the receiver got it.

    Args:
        resource: attributes of the process that made it.
        parent: id of its parent; empty for a root.
        links: the spans that it links to.
        failed: its status is an error.
        scope: name of the library that made it.
    """

    resource: dict[str, Any]
    scope: str
    name: str
    kind: str
    id: SpanId
    parent: str
    attributes: dict[str, Any]
    links: list[SpanId]
    failed: bool
    message: str

    @property
    def service(self) -> str:
        """The name of the service that made the span."""
        return str(self.resource["service.name"])


@dataclass
class Receiver:
    """Where spans arrive: `spans`, in the order of arrival.

    Args:
        http_port: port of OTLP over HTTP.
        grpc_port: port of OTLP over gRPC.
        status: the HTTP status of the next responses.
        silent: no request gets a response while it is true.
    """

    http_port: int = 0
    grpc_port: int = 0
    status: int = 200
    silent: bool = False
    spans: list[Span] = field(default_factory=list)
    requests: int = 0
    ended: Event = field(default_factory=Event)

    def endpoint(self, protocol: str) -> str:
        """Returns the URL for a protocol: `http/protobuf` or `grpc`."""
        return f"http://{LOOPBACK}:{self.grpc_port if protocol == 'grpc' else self.http_port}"

    def keep(self, request: ExportTraceServiceRequest) -> None:
        """Adds the spans of a request."""
        self.requests += 1
        while self.silent and not self.ended.wait(0.05):
            pass
        if self.status == 200:
            self.spans += _spans(request)

    async def until(self, count: int, service: str = "ratelimitd") -> list[Span]:
        """Returns the spans of a service once there are at least `count`."""

        async def have_come() -> bool:
            return len(self.of(service)) >= count

        await eventually(have_come, f"{count} spans of {service}")
        return self.of(service)

    def of(self, service: str) -> list[Span]:
        """Returns the spans of a service."""
        return [span for span in self.spans if span.service == service]


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def _attributes(pairs: Any) -> dict[str, Any]:
    found: list[KeyValue] = list(pairs)
    return {pair.key: _value(pair.value) for pair in found}


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in request.resource_spans:
        resource = _attributes(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    resource,
                    of_scope.scope.name,
                    span.name,
                    SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    SpanId(span.trace_id.hex(), span.span_id.hex()),
                    span.parent_span_id.hex(),
                    _attributes(span.attributes),
                    [SpanId(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
                    span.status.code == Status.STATUS_CODE_ERROR,
                    span.status.message,
                )


class _Service(TraceServiceServicer):
    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def Export(self, request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:  # noqa: N802 - gRPC's name
        self._receiver.keep(request)
        return ExportTraceServiceResponse()


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                receiver.keep(ExportTraceServiceRequest.FromString(body))
            reply = ExportTraceServiceResponse().SerializeToString()
            self.send_response(receiver.status if self.path == "/v1/traces" else 404)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            """Writes nothing."""

    return Handler


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True  # a client may keep its connection open

    def handle_error(self, *_: object) -> None:
        """Ignores a client that left."""


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Runs a receiver on free ports."""
    receiver = Receiver()
    with _HttpServer((LOOPBACK, 0), _handler(receiver)) as http, ThreadPoolExecutor(8) as threads:
        receiver.http_port = http.server_address[1]
        serving = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        service = grpc.server(threads)
        add_TraceServiceServicer_to_server(_Service(receiver), service)  # type: ignore[no-untyped-call] # generated
        receiver.grpc_port = service.add_insecure_port(f"{LOOPBACK}:0")
        service.start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            service.stop(None).wait()
            http.shutdown()
            serving.join()
