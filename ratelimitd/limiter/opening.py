"""Opens the limiter over a store: one connection to one server, or one to each master of a Redis Cluster."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import NamedTuple

from redis.asyncio import Redis

from ratelimitd.core.ports import BatchLimiter, Limiter
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.cluster_lanes import ClusterLanes, Lane
from ratelimitd.limiter.cluster_limiter import ClusterLimiter, NoOwnerLimiter
from ratelimitd.limiter.node_limiter import NodeLimiter
from ratelimitd.limiter.redis_limiter import RedisLimiter, greeting
from ratelimitd.settings import Settings
from ratelimitd.store.access import StoreAccess
from ratelimitd.store.access_watch import watching_access
from ratelimitd.store.client import connector, negotiate
from ratelimitd.store.cluster_client import ClusterClient
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.link import SILENCE_S, Link
from ratelimitd.store.master_watch import watching_master
from ratelimitd.store_url import Node
from ratelimitd.telemetry.store_calls import StoreCalls
from ratelimitd.telemetry.traces.opening import Traces

SILENCE_AFTER_DEADLINE_S = 0.5
"""How much longer than a decision waits the store may be silent before its connection is closed."""


class StoreLimiter(NamedTuple):
    """A limiter over a store that is open.

    Args:
        limiter: takes the tokens.
        in_flight: returns the number of decisions that wait for the store. Any thread may call it.
        settled: waits until the store has answered, or is known not to.
    """

    limiter: Limiter
    in_flight: Callable[[], int]
    settled: Callable[[], Awaitable[None]]


class Parts(NamedTuple):
    """What all connections of decisions share.

    Args:
        settings: the settings.
        access: the way to the store.
        traces: records the calls.
        calls: where calls are counted.
    """

    settings: Settings
    access: StoreAccess
    traces: Traces
    calls: StoreCalls

    @property
    def silence_s(self) -> float:
        """How long a link waits.

        A call may take longer than its decisions wait, because it may have to connect first. Their deadline
        comes before the end of the connection, so that they notice that the store is silent.
        """
        return max(SILENCE_S, self.settings.store_timeout_s + SILENCE_AFTER_DEADLINE_S)

    def batcher(self, limiter: BatchLimiter, node: str = "") -> Batcher:
        """Returns a batcher of this limiter. Errors name the node."""
        return Batcher(
            limiter,
            timeout_s=self.settings.store_timeout_s,
            max_batch=self.settings.max_batch,
            max_in_flight=self.settings.max_in_flight,
            calls=self.calls,
            node=node,
        )


@asynccontextmanager
async def open_store_limiter(parts: Parts, client: Redis) -> AsyncIterator[StoreLimiter]:
    """Yields the limiter, and closes it. `client` is one of the same store, from `open_client`."""
    opening = _in_cluster(parts, client) if isinstance(client, ClusterClient) else _on_one(parts, client)
    async with opening as limiter:
        yield limiter


@asynccontextmanager
async def _on_one(parts: Parts, client: Redis) -> AsyncIterator[StoreLimiter]:
    connect = connector(parts.access, pool_of(client).locate)
    link = Link(connect, greeting=greeting(), silence_s=parts.silence_s)
    pool_of(client).follow(lambda: link.opened)
    async with watching_master(client, link), link, watching_access(parts.access, link.renew):
        limiter = parts.traces.of_calls(RedisLimiter(link), parts.access.url, lambda: link.peer)
        async with parts.batcher(limiter) as batcher:
            yield StoreLimiter(batcher, lambda: batcher.in_flight, link.settled)


@asynccontextmanager
async def _in_cluster(parts: Parts, client: ClusterClient) -> AsyncIterator[StoreLimiter]:
    lanes = ClusterLanes(client.topology, partial(_lane, parts, client))
    pool_of(client).follow(lambda: lanes.opened)
    async with (
        parts.batcher(NoOwnerLimiter(lambda: lanes.reason)) as without_owner,
        lanes.following(),
        watching_access(parts.access, lanes.renew),
    ):
        limiter = ClusterLimiter(lanes, without_owner, timeout_s=parts.settings.store_timeout_s)
        yield StoreLimiter(limiter, lambda: limiter.in_flight, partial(lanes.settled, parts.silence_s))


@asynccontextmanager
async def _lane(parts: Parts, client: ClusterClient, node: Node) -> AsyncIterator[Lane]:
    """Opens the way to a node. Neither part waits for anything, so calls may be made at once."""
    link = Link(
        lambda: negotiate(client.topology.connection(node)),
        greeting=greeting(),
        silence_s=parts.silence_s,
    )
    name, url = f"the node {node}", parts.access.url
    url = url._replace(arguments=url.arguments | node._asdict())

    def batcher(*, asking: bool) -> Batcher:
        limiter = NodeLimiter(link, name, asking=asking)
        return parts.batcher(parts.traces.of_calls(limiter, url, lambda: link.peer), name)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(link)
        owning = await stack.enter_async_context(batcher(asking=False))
        asking = await stack.enter_async_context(batcher(asking=True))
        yield Lane(node, link, owning, asking)
