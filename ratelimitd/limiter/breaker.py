"""Knows while the store is away. Decisions then need not wait, and probes find out when it is back.

The store is away once a decision has reached its deadline and the store has answered nothing since that
decision began. It is back once it answers a probe within the time that a decision waits. A reply that is
late shows that a probe is worth sending at once, but not that decisions would be answered in time.

A refusal is an answer. So a store that answers reads and refuses writes is not away: it still denies, and it
refuses without delay. A lost connection is not a reason either, because the link connects again at once, and
calls wait for it.

A probe is a call of the script of the decisions, without a decision. PING would also be answered by a store
that holds back scripts and writes (CLIENT PAUSE). It takes nothing, so a probe whose reply is lost has no
effect.
"""

import asyncio
from functools import partial

from ratelimitd.core.ports import BatchAnswer, BatchLimiter
from ratelimitd.errors import StoreRefusedError, StoreReplyError

PROBE_INTERVAL_S = 0.02
"""The pause after a probe that found no connection. Probes that are sent take as long as the store takes."""


class Breaker:
    """Opens while the store is away.

    Args:
        limiter: makes the probes. Each is a call without requests.
        timeout_s: how long a decision waits for the store.
        loop: the event loop.

    Attributes:
        is_open: whether the store is away.
        reason: why it is, for logs and errors.
    """

    def __init__(self, limiter: BatchLimiter, timeout_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self.is_open = False
        self.reason = ""
        self._limiter = limiter
        self._timeout_s = timeout_s
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def open(self, reason: str) -> None:
        """Notes that the store is away, and starts to probe it."""
        if not self.is_open and not self._closed:
            self.is_open = True
            self.reason = reason
            self._probe()

    def close(self) -> None:
        """Ends the probes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _probe(self) -> None:
        answered = partial(self._probed, self._loop.time())
        try:
            self._limiter.submit((), answered)
        except Exception as error:  # noqa: BLE001 - the next probe may work
            answered(error)

    def _probed(self, sent_s: float, answer: BatchAnswer) -> None:
        if self._closed:
            return
        if is_answer(answer):
            if self._loop.time() - sent_s <= self._timeout_s:
                self.is_open = False
            else:
                self._probe()
        else:
            self.reason = str(answer)
            self._timer = self._loop.call_later(PROBE_INTERVAL_S, self._probe)


def is_answer(answer: BatchAnswer) -> bool:
    """Whether this came from the store, even if it is an error."""
    return not isinstance(answer, Exception) or isinstance(answer, (StoreRefusedError, StoreReplyError))
