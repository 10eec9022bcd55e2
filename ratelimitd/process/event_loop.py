"""An event loop whose end does not wait for threads.

Name resolution runs in threads that cannot be interrupted. When the name server does not answer, asyncio and
the interpreter would wait for them at the end: 10 s and more.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Thread
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine and returns its result, as asyncio.run does."""
    with asyncio.Runner() as runner:
        use_daemon_threads(runner.get_loop())
        return runner.run(main)


def use_daemon_threads(loop: asyncio.AbstractEventLoop) -> None:
    """Makes `loop` run blocking functions in threads that end with the process."""
    loop.set_default_executor(_DaemonThreads())


class _DaemonThreads(ThreadPoolExecutor):
    """One daemon thread per function. It is a ThreadPoolExecutor because the event loop requires one."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts the function in a thread of its own."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 - whoever awaits the future gets it
                future.set_exception(error)
            else:
                future.set_result(result)

        Thread(target=work, daemon=True).start()
        return future
