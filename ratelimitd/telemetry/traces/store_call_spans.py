"""A span for each call to the store, linked with the decisions that share it.

It is a child of the first of these decisions, so that it appears in a trace. The other decisions link to it.
The SDK limits the links of a span (OTEL_SPAN_LINK_COUNT_LIMIT, 128).
"""

from collections.abc import Callable, Sequence

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, Span, SpanKind, StatusCode, set_span_in_context

from ratelimitd.core.model import TakeRequest
from ratelimitd.core.ports import BatchAnswer, BatchCallback, BatchLimiter
from ratelimitd.store_url import StoreUrl
from ratelimitd.telemetry.traces.attributes import (
    SCHEMA_URL,
    SCOPE,
    error_attributes,
    error_text,
    peer_attributes,
    store_attributes,
)
from ratelimitd.telemetry.traces.decision_spans import TracedTake
from ratelimitd.telemetry.traces.guard import Guard

COMMAND = "EVALSHA"
"""The command of Redis, and the name of the span."""


class StoreCallSpans:
    """Takes tokens, and records a span for each call with a decision whose span is recorded.

    Args:
        provider: the source of tracers.
        limiter: makes the calls.
        url: the URL of the store.
        peer: returns the address of the store's end of the connection, None while there is no connection.
    """

    def __init__(
        self, provider: TracerProvider, limiter: BatchLimiter, url: StoreUrl, peer: Callable[[], object]
    ) -> None:
        self._limiter = limiter
        self._tracer = provider.get_tracer(*SCOPE, SCHEMA_URL)
        self._attributes = store_attributes(url)
        self._peer = peer
        self._guard = Guard()

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Starts one call of the limiter."""
        decisions = [request.span for request in requests if isinstance(request, TracedTake)]
        span = self._guard(self._start, decisions, len(requests)) if decisions else None
        if span is None:
            self._limiter.submit(requests, callback)
            return

        def answered(answer: BatchAnswer) -> None:
            self._guard(self._end, span, answer)
            callback(answer)

        self._limiter.submit(requests, answered)

    def _start(self, decisions: Sequence[Span], size: int) -> Span:
        first, *others = decisions
        span = self._tracer.start_span(
            COMMAND,
            set_span_in_context(first),
            SpanKind.CLIENT,
            self._attributes,
            [Link(decision.get_span_context()) for decision in decisions],
        )
        if size > 1:
            span.set_attribute("db.operation.batch.size", size)
        for other in others:
            other.add_link(span.get_span_context())
        return span

    def _end(self, span: Span, answer: BatchAnswer) -> None:
        span.set_attributes(peer_attributes(self._peer()))
        answers = (answer,) if isinstance(answer, Exception) else answer
        error = next((one for one in answers if isinstance(one, Exception)), None)
        if error is not None:
            span.set_attributes(error_attributes(error))
            span.set_status(StatusCode.ERROR, error_text(error))
        span.end()


_port: type[BatchLimiter] = StoreCallSpans
