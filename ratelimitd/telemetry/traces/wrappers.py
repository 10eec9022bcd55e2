"""Puts what records spans around the parts of a decision, if traces are on.

The parts have the same shape with and without it, and this module imports OpenTelemetry only if it is used.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Request
from ratelimitd.core.ports import BatchLimiter, Limiter
from ratelimitd.errors import MissingExtraError
from ratelimitd.telemetry.traces.variables import missing_extra, trace_export

Decide = Callable[[Request], Awaitable[Decision]]


class Traces(Protocol):
    """Returns each part with what records its spans."""

    def of_calls(self, limiter: BatchLimiter, url: str, peer: Callable[[], object]) -> BatchLimiter:
        """Records the calls of the store at `url`; `peer` returns its address as a socket names it."""
        ...

    def of_takes(self, limiter: Limiter) -> Limiter:
        """Passes the span of a decision to the calls."""
        ...

    def of_decisions(self, decide: Decide, revision_of: Callable[[str], int | None]) -> Decide:
        """Records decisions; `revision_of` returns the number of the policy with a digest, if it is known."""
        ...


class NoTraces:
    """Traces that are off: each part stays as it is."""

    def of_calls(self, limiter: BatchLimiter, _url: str, _peer: Callable[[], object]) -> BatchLimiter:
        """Returns the same limiter."""
        return limiter

    def of_takes(self, limiter: Limiter) -> Limiter:
        """Returns the same limiter."""
        return limiter

    def of_decisions(self, decide: Decide, _revision_of: Callable[[str], int | None]) -> Decide:
        """Returns the same function."""
        return decide


_port: type[Traces] = NoTraces


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
