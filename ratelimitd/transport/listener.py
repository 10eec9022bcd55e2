"""The handle of a running transport."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from ratelimitd.address import Address


@dataclass(frozen=True, slots=True)
class Listener:
    """A running transport.

    Args:
        address: where it listens.
        leave: turns health to NOT_SERVING. Calls are still accepted, because callers notice only later.
        ended: returns when the transport has ended by itself, with a sentence that says how.
    """

    address: Address
    leave: Callable[[], None]
    ended: Callable[[], Coroutine[None, None, str]]
