"""Runs a test on both event loops that ratelimitd has."""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from tests.eventually import WAIT_S


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs a test on asyncio's event loop and on uvloop, which the hosted transport uses.

    The test fails if an error reaches the loop's exception handler.
    """

    def run(*, new_loop: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        strays: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.get_loop().set_exception_handler(lambda _, stray: strays.append(stray))
            # pytest-timeout cannot interrupt uvloop.
            runner.run(asyncio.wait_for(test(**fixtures), WAIT_S))
        assert strays == []

    loop = inspect.Parameter("new_loop", inspect.Parameter.KEYWORD_ONLY)
    fixtures = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(test).parameters.values()
    ]
    run.__signature__ = inspect.Signature([*fixtures, loop])  # type: ignore[attr-defined] # pytest reads it
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.pytestmark = list(getattr(test, "pytestmark", ()))  # type: ignore[attr-defined] # pytest reads it, too
    on_each = pytest.mark.parametrize(
        "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    both: Callable[..., None] = on_each(run)
    return both
