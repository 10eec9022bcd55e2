"""What pyvoy does in Python for each call around the application, measured without Envoy."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import ContextVar

_CALLS = 100
"""Calls at a time; the event loop then takes a turn."""

_bridge: ContextVar[object] = ContextVar("bridge")


async def _application() -> None:
    """Returns without waiting."""


def _ignore(_task: object) -> None:
    """Does nothing."""


def _only_run(call: Coroutine[None, None, None]) -> None:
    try:
        call.send(None)
    except StopIteration:
        return


def _task(call: Coroutine[None, None, None]) -> None:
    asyncio.get_running_loop().create_task(call)


def _task_with_callback(call: Coroutine[None, None, None]) -> None:
    asyncio.get_running_loop().create_task(call).add_done_callback(_ignore)


def _all(call: Coroutine[None, None, None]) -> None:
    token = _bridge.set(object())
    _task_with_callback(call)
    _bridge.reset(token)


STEPS: dict[str, Callable[[Coroutine[None, None, None]], None]] = {
    "the coroutine alone": _only_run,
    "in a task": _task,
    "with a done callback": _task_with_callback,
    "with a context variable": _all,
}
"""Each way to run a call, in the order in which they add work."""


def step_us(new_loop: Callable[[], asyncio.AbstractEventLoop], step: str, seconds: float) -> float:
    """Microseconds of a call: the least of many turns."""
    start = STEPS[step]

    async def turn() -> float:
        began = time.perf_counter()
        for _ in range(_CALLS):
            start(_application())
        await asyncio.sleep(0)  # the tasks run
        await asyncio.sleep(0)  # and then their callbacks
        return time.perf_counter() - began

    async def least() -> float:
        until, best = time.perf_counter() + seconds, await turn()
        while time.perf_counter() < until:
            best = min(best, await turn())
        return best / _CALLS * 1e6

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(least())
