"""The ways to the masters of a Redis Cluster, kept up to date while the cluster changes.

A search every few seconds finds changes that no call reveals. A call that fails or is redirected starts one
at once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import NamedTuple, Self

from redis.exceptions import RedisError

from ratelimitd.bounded_log import BoundedLog, FailureLog
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.process.background import background
from ratelimitd.store.cluster import Cluster
from ratelimitd.store.cluster_slots import SLOTS, SlotMap
from ratelimitd.store.link import Link
from ratelimitd.store_url import Node

INTERVAL_S = 5.0
"""Time between two searches."""

TROUBLE_INTERVAL_S = 0.2
"""The least time between the starts of two searches."""

LINGER_S = 10.0
"""How long a node is kept that owns no slot: calls may still be redirected to it."""


class Lane(NamedTuple):
    """The way to one node.

    Args:
        node: its address.
        link: the connection to it.
        batcher: takes tokens of slots that it owns.
        asking: takes tokens of slots that move to it.
    """

    node: Node
    link: Link
    batcher: Batcher
    asking: Batcher


OpenLane = Callable[[Node], AbstractAsyncContextManager[Lane]]
"""Opens the way to a node, which is closed at the end of the block."""


class _Kept(NamedTuple):
    lane: Lane
    stack: AsyncExitStack


class ClusterLanes:
    """The ways to the nodes, and the owner of each slot.

    Args:
        cluster: finds the nodes.
        open_lane: opens the way to one.

    Attributes:
        by_slot: the way to the owner of each slot; None while no owner is known.
        reason: why a slot has no known owner.
    """

    def __init__(self, cluster: Cluster, open_lane: OpenLane) -> None:
        self.by_slot: list[Lane | None] = [None] * SLOTS
        self.reason = "the nodes of the cluster are not known yet"
        self._cluster = cluster
        self._open_lane = open_lane
        self._loop = asyncio.get_running_loop()
        self._kept: dict[Node, _Kept] = {}
        self._needed_s: dict[Node, float] = {}  # when a node without slots was last needed
        self._slots = SlotMap()
        self._moved = False  # whether `by_slot` differs from these slots
        self._changing = asyncio.Lock()
        self._suspected = asyncio.Event()
        self._searched = asyncio.Event()
        self._changes = 0
        self._log = BoundedLog("ratelimitd.store")
        self._failure_log = FailureLog("ratelimitd.store")

    @property
    def lanes(self) -> list[Lane]:
        """The ways to all nodes. Any thread may read it."""
        return [kept.lane for kept in self._kept.copy().values()]

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes that the last search found."""
        return self._slots.nodes

    @property
    def opened(self) -> int:
        """A number that changes whenever the cluster does, or a connection is opened."""
        return self._changes + sum(lane.link.opened for lane in self.lanes)

    def suspect(self) -> None:
        """Starts a search soon: a call failed or was redirected."""
        self._suspected.set()

    async def settled(self, within_s: float) -> None:
        """Returns once every master has answered, or is known not to. It waits so long for a search."""
        try:
            async with asyncio.timeout(within_s):
                await self._searched.wait()
        except TimeoutError:
            return
        await asyncio.gather(*(lane.link.settled() for lane in self.lanes))

    async def renew(self) -> None:
        """Replaces all open connections without failing a call, as `Link.renew` does."""
        await asyncio.gather(*(lane.link.renew() for lane in self.lanes))

    async def lane_to(self, node: Node) -> Lane:
        """Returns the way to a node, which need not own a slot."""
        self._needed_s[node] = self._loop.time()
        async with self._changing:
            return await self._open(node)

    def move(self, slot: int, lane: Lane) -> None:
        """Notes that a node owns a slot, before a search finds it out."""
        self.by_slot[slot] = lane
        self._moved = True
        self.suspect()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Self]:
        """Follows the changes of the cluster until the end of the block."""
        try:
            async with background(self._follow()):
                yield self
        finally:
            await asyncio.gather(*(kept.stack.aclose() for kept in self._kept.values()))

    async def _follow(self) -> None:
        while True:
            began_s = self._loop.time()
            self._suspected.clear()
            try:
                await self._search()
            except Exception:  # noqa: BLE001 - after a defect, later changes must still be followed
                self._log.exception("cluster_search_defect")
            self._searched.set()
            await asyncio.sleep(began_s + TROUBLE_INTERVAL_S - self._loop.time())
            try:
                async with asyncio.timeout_at(began_s + INTERVAL_S):
                    await self._suspected.wait()
            except TimeoutError:
                pass

    async def _search(self) -> None:
        try:
            slots = await self._cluster.refresh()
        except RedisError as error:
            self.reason = str(error)
            self._failure_log.warning("cluster_search_failed", reason=self.reason)
            return
        self.reason = "no node of the cluster owns the slot"
        self._failure_log.worked("cluster_search_failed")
        async with self._changing:
            if slots != self._slots or self._moved:
                await self._use(slots)
            await self._close_unused()

    async def _use(self, slots: SlotMap) -> None:
        before, now = self._slots.masters, slots.masters
        by_slot: list[Lane | None] = [None] * SLOTS
        for first, last, owner in slots.ranges:
            by_slot[first : last + 1] = [await self._open(owner)] * (last + 1 - first)
        self.by_slot, self._slots, self._moved = by_slot, slots, False
        self._changes += 1
        now_s = self._loop.time()
        self._needed_s |= dict.fromkeys(set(before) - set(now), now_s)
        if before and set(before) != set(now):
            self._log.warning("cluster_masters_changed", masters=[*map(str, now)], before=[*map(str, before)])

    async def _open(self, node: Node) -> Lane:
        if node not in self._kept:
            stack = AsyncExitStack()
            self._kept[node] = _Kept(await stack.enter_async_context(self._open_lane(node)), stack)
        return self._kept[node].lane

    async def _close_unused(self) -> None:
        masters, now_s = set(self._slots.masters), self._loop.time()
        for node, kept in [*self._kept.items()]:
            if node in masters or now_s - self._needed_s.get(node, now_s) <= LINGER_S:
                continue
            self._changes += 1 + kept.lane.link.opened  # `opened` must not fall back to an earlier number
            del self._kept[node], self._needed_s[node]
            self.by_slot = [None if lane is kept.lane else lane for lane in self.by_slot]
            await kept.stack.aclose()
