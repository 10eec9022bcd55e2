"""The wrappers that record spans around the parts of a decision. Traces that are off have none.

The parts have the same shape with and without a wrapper.
"""

from collections.abc import Callable
from typing import Protocol

from ratelimitd.core.ports import BatchLimiter, Decide, Limiter


class Traces(Protocol):
    """Returns each part with what records its spans."""

    def of_calls(self, limiter: BatchLimiter, url: str, peer: Callable[[], object]) -> BatchLimiter:
        """Records the calls to the store at `url`; `peer` returns its address as a socket names it."""
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
