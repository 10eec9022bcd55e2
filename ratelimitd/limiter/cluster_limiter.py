"""Takes tokens in a Redis Cluster: each request goes to the master that owns the slot of its keys.

Each master has a batcher of its own, so one that hangs delays only the decisions whose buckets it has. A call
that a node has not executed is made again, within the time that a decision waits:

    MOVED      at the node that it names, which owns the slot from now on
    ASK        once at the node that it names: the slot moves there, and these keys have moved already
    TRYAGAIN   after a pause: some of the keys have moved, others have not

A call whose connection ended may have been executed, so it is never made again.
"""

import asyncio
from collections.abc import Callable, Sequence

from redis.exceptions import AskError, MovedError, TryAgainError

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import BatchCallback, BatchLimiter, Limiter
from ratelimitd.errors import StoreConnectionError, StoreError, StoreRedirectError, StoreTimeoutError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.cluster_lanes import ClusterLanes, Lane
from ratelimitd.store.cluster_slots import named_node, slot_of

PAUSE_S = 0.005
"""The pause before a call is made again that no node executes yet."""

AT_ONCE = 2
"""Redirections that are followed without a pause: more of them mean that two nodes name each other."""


class ClusterLimiter:
    """Takes tokens on all masters.

    Args:
        lanes: the ways to the masters.
        without_owner: takes requests whose slot has no known owner. They fail, and are counted and logged.
        timeout_s: how long a decision waits.
    """

    def __init__(self, lanes: ClusterLanes, without_owner: Batcher, *, timeout_s: float) -> None:
        self.lanes = lanes
        self._without_owner = without_owner
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    @property
    def in_flight(self) -> int:
        """The number of callers without an outcome. It may be read in any thread."""
        return sum(lane.batcher.in_flight for lane in self.lanes.lanes)

    async def take(self, request: TakeRequest) -> Outcome:
        """The outcome. All keys must share a slot. Raises StoreError after the timeout."""
        slot = slot_of(request.keys[0])
        lane = self.lanes.by_slot[slot]
        try:
            if lane is None:
                return await self._without_owner.take(request)
            return await lane.batcher.take(request)
        except StoreRedirectError as error:
            assert lane is not None  # noqa: S101 - without a lane nothing is redirected
            return await self._follow(request, slot, lane, error)
        except StoreError:
            self.lanes.suspect()
            raise

    async def _follow(
        self, request: TakeRequest, slot: int, lane: Lane, error: StoreRedirectError
    ) -> Outcome:
        """Makes a call again where a redirection leads, until it is executed."""
        redirections = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    self.lanes.suspect()
                    redirections += 1
                    if isinstance(error.__cause__, TryAgainError) or redirections > AT_ONCE:
                        await asyncio.sleep(PAUSE_S)
                    lane, batcher = await self._next(slot, lane, error.__cause__)
                    try:
                        return await batcher.take(request)
                    except StoreRedirectError as again:
                        error = again
        except TimeoutError:
            late = StoreTimeoutError(f"no answer within {self._timeout_s * 1000:g} ms after: {error}")
            lane.batcher.note(request, late)
            raise late from error

    async def _next(self, slot: int, sender: Lane, cause: BaseException | None) -> tuple[Lane, Batcher]:
        """Returns where a call must be made that `sender` has answered with an error."""
        node = named_node(cause, sender.node, self.lanes.nodes) if isinstance(cause, AskError) else None
        if node is None:
            lane = self.lanes.by_slot[slot] or sender
            return lane, lane.batcher
        lane = await self.lanes.lane_to(node)
        if isinstance(cause, MovedError):  # in redis-py a MovedError is an AskError
            self.lanes.move(slot, lane)
            return lane, lane.batcher
        return lane, lane.asking


class NoOwnerLimiter:
    """Takes no tokens: no node is known to own the slot.

    Args:
        reason: returns why that is so.
    """

    def __init__(self, reason: Callable[[], str]) -> None:
        self._reason = reason

    def submit(self, _requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Ends with an error."""
        error = StoreConnectionError(f"the store failed: {self._reason()}")
        asyncio.get_running_loop().call_soon(callback, error)


_port: type[Limiter] = ClusterLimiter
_batch_port: type[BatchLimiter] = NoOwnerLimiter
