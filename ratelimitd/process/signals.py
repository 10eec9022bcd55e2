"""Signals that end this process or must not end its children."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""The signals with which an operator, a service manager or a closed terminal ends a process."""


def on_signal(number: signal.Signals, callback: Callable[[], None]) -> None:
    """Calls `callback` from the running event loop at this signal, unless the signal is ignored.

    `nohup` ignores SIGHUP, and a shell without job control ignores SIGINT for commands in the background.
    They must stay ignored. SIGTERM is never left ignored, because a service that cannot be stopped is killed.
    """
    if number is signal.SIGTERM or not is_ignored(number):
        asyncio.get_running_loop().add_signal_handler(number, callback)


def is_ignored(number: signal.Signals) -> bool:
    """Whether the process that started this one has ignored the signal for it."""
    return signal.getsignal(number) is signal.SIG_IGN


@contextmanager
def blocked(numbers: frozenset[signal.Signals]) -> Iterator[None]:
    """Blocks these signals in this thread. A process that is started in the block keeps them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
