"""A span for each decision, as a child of the span of Envoy's call."""

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Outcome, Request, TakeRequest, Verdict, new
from ratelimitd.core.ports import Decide, Limiter
from ratelimitd.errors import StoreError
from ratelimitd.telemetry.traces.attributes import (
    SCHEMA_URL,
    SCOPE,
    decision_attributes,
    error_attributes,
    error_text,
)
from ratelimitd.telemetry.traces.guard import Guard

METHOD = "envoy.service.auth.v3.Authorization/Check"
"""The RPC that a decision answers, and the name of its span."""

_NOT_SAMPLED = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
"""A valid traceparent whose trace is not sampled. The SDK needs 11 us to find that out, this 0.4 us."""

_current: ContextVar[Span | None] = ContextVar("span_of_the_decision", default=None)
"""The span of the decision that runs, if it is recorded."""


class DecisionSpans:
    """Decides requests and records a span for each one that is sampled.

    Args:
        provider: the source of tracers.
        decide: decides.
        revision_of: returns the number of the policy revision with a digest, None if it is unknown.
    """

    def __init__(
        self, provider: TracerProvider, decide: Decide, revision_of: Callable[[str], int | None]
    ) -> None:
        self._decide = decide
        self._revision_of = revision_of
        self._tracer = provider.get_tracer(*SCOPE, SCHEMA_URL)
        self._extract = TraceContextTextMapPropagator().extract
        # A sampler of this kind drops the spans of such a trace.
        self._drops_not_sampled = isinstance(provider.sampler, ParentBased)
        self._guard = Guard()

    def __call__(self, request: Request) -> Awaitable[Decision]:
        """The decision about one request. Raises what `decide` raises."""
        if self._drops_not_sampled and _NOT_SAMPLED.fullmatch(request.traceparent):
            return self._decide(request)
        span = self._guard(self._start, request.traceparent)
        if span is None or not span.is_recording():
            return self._decide(request)
        return self._recorded(request, span)

    async def _recorded(self, request: Request, span: Span) -> Decision:
        token = _current.set(span)
        try:
            decision = await self._decide(request)
        except BaseException as error:
            self._guard(_fail, span, error)
            raise
        finally:
            _current.reset(token)
        self._guard(self._end, span, decision)
        return decision

    def _start(self, traceparent: str) -> Span:
        context = self._extract({"traceparent": traceparent}) if traceparent else Context()
        return self._tracer.start_span(METHOD, context, SpanKind.SERVER)

    def _end(self, span: Span, decision: Decision) -> None:
        span.set_attributes(
            {
                "rpc.system.name": "grpc",
                "rpc.method": METHOD,
                "rpc.response.status_code": "OK",
                **decision_attributes(decision, self._revision_of(decision.policy_digest)),
            }
        )
        if decision.verdict is Verdict.UNDECIDED and decision.rules is None:
            span.set_status(StatusCode.ERROR, "no policy could be read from the store yet")
        span.end()


def _fail(span: Span, error: BaseException) -> None:
    """Ends the span of a decision that was cancelled by its caller, or that failed by a defect."""
    code = "INTERNAL" if isinstance(error, Exception) else "CANCELLED"
    span.set_attributes(
        {
            "rpc.system.name": "grpc",
            "rpc.method": METHOD,
            "rpc.response.status_code": code,
            "error.type": type(error).__name__,
        }
    )
    span.set_status(StatusCode.ERROR)
    span.end()


class TracedTake(TakeRequest):
    """A request to take tokens that names the span of its decision."""

    span: Span


class TracedTakes:
    """Adds the span of its decision to each request that a limiter gets, for the links of the store's call.

    Args:
        limiter: takes the tokens.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._guard = Guard()

    def take(self, request: TakeRequest) -> Awaitable[Outcome]:
        """The outcome. Raises the StoreError of the limiter."""
        span = _current.get()
        return self._limiter.take(request) if span is None else self._traced(request, span)

    async def _traced(self, request: TakeRequest, span: Span) -> Outcome:
        traced = new(TracedTake, request)
        traced.span = span
        try:
            return await self._limiter.take(traced)
        except StoreError as error:
            self._guard(span.set_attributes, error_attributes(error))
            self._guard(span.set_status, StatusCode.ERROR, error_text(error))
            raise


_port: type[Limiter] = TracedTakes
