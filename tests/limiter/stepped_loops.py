"""Event loops whose clock a test moves forward, so that deadlines pass without waiting for them."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import uvloop


def _stepped(base: Any) -> Callable[[], asyncio.AbstractEventLoop]:
    """Returns a class of event loops that adds `stall` to the class `base`."""

    class Loop(base):  # type: ignore[misc] # the two bases have no common type
        def __init__(self) -> None:
            super().__init__()
            self._moved_s = 0.0
            self._timers: list[tuple[float, asyncio.TimerHandle, Callable[..., object], Any]] = []

        def time(self) -> float:
            now_s: float = super().time()
            return now_s + self._moved_s

        def call_at(self, when: float, callback: Callable[..., object], *args: Any, **options: Any) -> Any:
            handle = super().call_at(when, callback, *args, **options)
            self._timers.append((when, handle, callback, args))
            return handle

        def stall(self, seconds: float) -> None:
            before_s = self.time()
            self._moved_s += seconds
            for when, handle, callback, args in self._timers:
                if before_s < when <= self.time() and not handle.cancelled():
                    handle.cancel()
                    # The timers of uvloop count real milliseconds, and a delay of 0 ms would not set one.
                    super().call_at(self.time() + 0.001, callback, *args)
            time.sleep(0.003)

    return Loop


new_asyncio_loop = _stepped(asyncio.SelectorEventLoop)
new_uvloop = _stepped(uvloop.Loop)


def stall(seconds: float) -> None:
    """Moves the clock of the running loop, whose timers within that time are due when the caller waits."""
    loop: Any = asyncio.get_running_loop()
    loop.stall(seconds)


def on_stepped_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Runs a test on asyncio's event loop with a clock that `stall` moves."""

    @wraps(test)
    def run() -> None:
        with asyncio.Runner(loop_factory=new_asyncio_loop) as runner:
            runner.run(test())

    return run
