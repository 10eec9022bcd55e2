"""Refuses calls that come too late to be answered in time. They take no tokens.

A replica serves calls in the order of their arrival. Under overload it would reach each call only when its
caller has just given up, so every response would come too late. A refused call costs little, so the replica
soon reaches calls whose callers still wait.
"""

import time
from collections.abc import Callable

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.transport.call_error import CallError

MARGIN_S = 0.1
"""A replica that is overloaded accepts no call with less time left, because its response takes time too."""

OVERLOADED_S = 1.0
"""How long a replica counts as overloaded after a call whose caller had given up."""


class Overload:
    """Decides which calls are refused.

    Args:
        on_refused: called for each call that is refused.
        now_s: a monotonic clock, in seconds.
    """

    def __init__(
        self, on_refused: Callable[[], None] = lambda: None, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_refused = on_refused
        self._now_s = now_s
        self._until_s = float("-inf")
        self._log = BoundedLog("ratelimitd.transport", now_s=now_s)

    def check(self, left_s: float) -> None:
        """Raises CallError if a call with `left_s` seconds left, at most MARGIN_S, is refused."""
        now_s = self._now_s()
        if left_s <= 0:
            self._until_s = now_s + OVERLOADED_S
        elif now_s >= self._until_s:
            return  # a short timeout of the caller is not a sign of overload
        self._on_refused()
        self._log.warning("overloaded")
        raise CallError(GrpcCode.UNAVAILABLE, "this replica is overloaded: the call has waited for too long")
