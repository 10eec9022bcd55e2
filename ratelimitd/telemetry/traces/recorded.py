"""Traces that are on: each part of a decision with what records its spans."""

from collections.abc import Callable

from opentelemetry.sdk.trace import TracerProvider

from ratelimitd.core.ports import BatchLimiter, Decide, Limiter
from ratelimitd.telemetry.traces.decision_spans import DecisionSpans, TracedTakes
from ratelimitd.telemetry.traces.store_call_spans import StoreCallSpans
from ratelimitd.telemetry.traces.wrappers import Traces


class RecordedTraces:
    """Records spans with the tracers of `provider`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider

    def of_calls(self, limiter: BatchLimiter, url: str, peer: Callable[[], object]) -> BatchLimiter:
        """Records the calls to the store at `url`."""
        return StoreCallSpans(limiter, self._provider, url, peer)

    def of_takes(self, limiter: Limiter) -> Limiter:
        """Passes the span of a decision to the calls."""
        return TracedTakes(limiter)

    def of_decisions(self, decide: Decide, revision_of: Callable[[str], int | None]) -> Decide:
        """Records decisions."""
        return DecisionSpans(decide, self._provider, revision_of)


_port: type[Traces] = RecordedTraces
