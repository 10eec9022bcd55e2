"""Deadlines for all calls of the admin service to the store, so that no request waits forever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from ratelimitd.control.control import Control
from ratelimitd.errors import StoreError

_SCANS = {"buckets", "reset"}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the parts of a request may take, in seconds.

    Args:
        call_s: one call of Control. A healthy store is a thousand times faster.
        scan_s: one call of Control that scans every key, which takes seconds in a large store.
        page_s: all work for one page of the panel.
        replicas_s: how long the panel waits for the replicas to run a new revision. They normally take
            milliseconds.
    """

    call_s: float = 5.0
    scan_s: float = 30.0
    page_s: float = 15.0
    replicas_s: float = 2.0


@asynccontextmanager
async def store_deadline(seconds: float) -> AsyncIterator[None]:
    """Raises StoreError when its block takes longer. A change in the block may have happened nevertheless."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise StoreError(f"the store did not answer within {seconds:g} s") from error


def with_deadlines(control: Control, deadlines: Deadlines) -> Control:
    """A Control whose calls to the store raise StoreError after their deadline."""
    return cast("Control", _ControlWithDeadlines(control, deadlines))


class _ControlWithDeadlines:
    """Adds the deadline to each method of a Control, so that no endpoint can forget it."""

    def __init__(self, control: Control, deadlines: Deadlines) -> None:
        self._control = control
        self._deadlines = deadlines

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._control, name)
        if name == "wait":  # it takes a timeout of its own
            return method
        seconds = self._deadlines.scan_s if name in _SCANS else self._deadlines.call_s

        async def bounded(*args: Any, **kwargs: Any) -> Any:
            async with store_deadline(seconds):
                return await method(*args, **kwargs)

        return bounded
