"""Opens traces if the variables of OpenTelemetry turn them on, and imports OpenTelemetry only then.

The parts of a decision have the same shape with and without the wrappers that record their spans.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ratelimitd.core.ports import BatchLimiter, Decide, Limiter
from ratelimitd.errors import MissingExtraError
from ratelimitd.store_url import StoreUrl
from ratelimitd.telemetry.traces.variables import missing_extra, trace_export

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class Traces(NamedTuple):
    """Functions that return a part of a decision with the wrapper that records its spans.

    Args:
        of_calls: records the calls to a store. Its arguments are the limiter that makes the calls, the URL of
            the store, and a function that returns the address of the store as a socket names it.
        of_takes: passes the span of a decision to the calls.
        of_decisions: records decisions. Its arguments are the decider, and a function that returns the number
            of the policy with a digest, if it is known.
    """

    of_calls: Callable[[BatchLimiter, StoreUrl, Callable[[], object]], BatchLimiter]
    of_takes: Callable[[Limiter], Limiter]
    of_decisions: Callable[[Decide, Callable[[str], int | None]], Decide]


NO_TRACES = Traces(
    of_calls=lambda limiter, _url, _peer: limiter,
    of_takes=lambda limiter: limiter,
    of_decisions=lambda decide, _revision_of: decide,
)
"""Traces that are off: each part stays as it is."""


def recorded(provider: "TracerProvider") -> Traces:
    """Returns traces that are on, with the tracers of `provider`."""
    from ratelimitd.telemetry.traces import decision_spans, store_call_spans  # noqa: PLC0415 - need the extra

    return Traces(
        of_calls=partial(store_call_spans.StoreCallSpans, provider),
        of_takes=decision_spans.TracedTakes,
        of_decisions=partial(decision_spans.DecisionSpans, provider),
    )


@asynccontextmanager
async def open_traces(environ: Mapping[str, str], replica_id: str) -> AsyncIterator[Traces]:
    """Yields the wrappers for the OTEL_* variables. Spans that are left are sent at the end of the block.

    Raises SettingsError or MissingExtraError.
    """
    export = trace_export(environ)
    if export is None:
        yield NO_TRACES
        return
    try:
        from ratelimitd.telemetry.traces.exporting import exporting  # noqa: PLC0415 - needs the extra
    except ImportError as error:
        raise MissingExtraError(missing_extra(error.name)) from error
    async with exporting(export, replica_id) as provider:
        yield recorded(provider)
