"""Takes tokens on one node of a Redis Cluster: one call of the script for each slot, all in one write.

A node refuses a script whose keys belong to several slots. Decisions of one identity share a slot.
"""

from collections.abc import Sequence
from functools import partial

from redis.exceptions import AskError, MovedError, TryAgainError

from ratelimitd.core.model import TakeRequest
from ratelimitd.core.ports import Answer, BatchAnswer, BatchCallback, BatchLimiter
from ratelimitd.errors import StoreConnectionError
from ratelimitd.limiter.redis_limiter import Caller, RedisLimiter
from ratelimitd.store.cluster_slots import slot_of
from ratelimitd.store.link import Call, Link
from ratelimitd.store.wire import Argument, ReplyCallback

REDIRECTS = (AskError, MovedError, TryAgainError)
"""Answers of a node that has not executed a call, and after which the call is made again."""


class NodeLimiter:
    """Takes tokens on a node. Some requests of a call may have an outcome and others an error.

    Args:
        link: the connection to the node.
        name: what errors call the node.
        asking: the slots move to the node, which takes calls with ASKING already.
    """

    def __init__(self, link: Link, name: str, *, asking: bool = False) -> None:
        self._calls = _JoinedCalls(link, asking=asking)
        self._limiter = RedisLimiter(self._calls, name=name, redirects=REDIRECTS)

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Starts the calls. `callback` is called when all have ended."""
        positions: dict[int, list[int]] = {}
        for position, request in enumerate(requests):
            positions.setdefault(slot_of(request.keys[0]), []).append(position)
        if len(positions) <= 1:
            self._limiter.submit(requests, callback)
            return
        answers = _Answers(len(requests), len(positions), callback)
        self._calls.begin()
        for places in positions.values():
            self._limiter.submit([requests[place] for place in places], partial(answers.add, places))
        self._calls.send()


class _Answers:
    """Collects the answers of several calls.

    Args:
        requests: how many requests the calls have together.
        calls: how many calls there are.
        callback: called with the answer to all requests once all calls have ended.
    """

    def __init__(self, requests: int, calls: int, callback: BatchCallback) -> None:
        self._answers: list[Answer] = [StoreConnectionError("the call did not end")] * requests
        self._left = calls
        self._callback = callback

    def add(self, places: Sequence[int], answer: BatchAnswer) -> None:
        """Notes the answer to the requests at these places."""
        if isinstance(answer, Exception):
            for place in places:
                self._answers[place] = answer
        else:
            for place, one in zip(places, answer, strict=True):
                self._answers[place] = one
        self._left -= 1
        if not self._left:
            # The whole call failed if nothing came from the node: the breaker needs to know.
            lost = all(isinstance(one, StoreConnectionError) for one in self._answers)
            self._callback(
                self._answers[0] if lost and isinstance(self._answers[0], Exception) else self._answers
            )


class _JoinedCalls:
    """The calls between `begin` and `send` are sent in one write, and all others at once."""

    def __init__(self, link: Link, *, asking: bool) -> None:
        self._link = link
        self._asking = ((("ASKING",), _ignore),) if asking else ()  # it holds for the next command
        self._joined: list[Call] | None = None

    def begin(self) -> None:
        self._joined = []

    def call(self, arguments: tuple[Argument, ...], callback: ReplyCallback) -> None:
        calls = (*self._asking, (arguments, callback))
        if self._joined is None:
            self._link.call_all(calls)
        else:
            self._joined += calls

    def send(self) -> None:
        joined, self._joined = self._joined, None
        self._link.call_all(joined or ())


def _ignore(_reply: object) -> None:
    """Does nothing with a reply. A node that refuses ASKING answers the call with MOVED."""


_caller: type[Caller] = _JoinedCalls
_port: type[BatchLimiter] = NodeLimiter
