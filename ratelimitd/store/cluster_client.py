"""A client of a Redis Cluster for keys that share a slot.

All keys of ratelimitd except the keys of buckets share the slot of the config key. So the client is an
ordinary one whose connections lead to the master that owns that slot. A command that a node has not executed
is repeated: after MOVED at the owner, after ASK at the node that the slot moves to, after TRYAGAIN a little
later.

`store/buckets.py` reaches the other masters.
"""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ratelimitd.store.access import StoreAccess
from ratelimitd.store.cluster import Cluster, NoNodeAnswersError
from ratelimitd.store.connections import node_of
from ratelimitd.store.fresh_pool import FreshPool
from ratelimitd.store.plain_client import PlainClient, PlainPipeline
from ratelimitd.store_url import Node

ATTEMPTS = 12
"""How often a command is sent that no node executes."""

PAUSE_S = 0.05
"""The pause before an attempt, except before the second one: half a second in all."""

REDIRECTS = (AskError, MovedError, TryAgainError)


class ClusterClient(PlainClient):
    """A client whose connections lead to the owner of a slot. `open_cluster_client` makes it."""

    in_cluster = True
    topology: Cluster

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Returns the reply to a command. Raises RedisError."""
        for attempt in range(ATTEMPTS):
            if attempt > 1:
                await asyncio.sleep(PAUSE_S)
            try:
                return await super().execute_command(*args, **options)
            except MovedError as error:
                self.topology.moved(error)
                last: ResponseError = error
            except AskError as error:
                last = error
                node = self.topology.named(error)
                if node is None:  # until the slot has moved
                    continue
                try:
                    return await self._ask(node, args, options)
                except REDIRECTS as again:
                    last = again
            except TryAgainError as error:
                last = error
        raise last

    async def _ask(self, node: Node, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Returns the reply of the node that the slot moves to."""
        connection: Any = self.topology.connection(node)
        try:
            await connection.connect()
            await connection.send_command("ASKING", check_health=False)
            await connection.read_response()
            await connection.send_command(*args, check_health=False)
            return await self.parse_response(connection, args[0], **options)
        finally:
            await connection.disconnect(nowait=True)

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
        shard_hint: str | None = None,
    ) -> PlainPipeline:
        """Returns a pipeline that sends its commands together."""
        pipeline = _ClusterPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        pipeline.origin = self
        return pipeline

    @asynccontextmanager
    async def leading_to(self, key: str) -> AsyncIterator["ClusterClient"]:
        """Yields a client that leads to the owner of another key, and closes it."""
        async with _client(self.topology, key, max_connections=1) as client:
            yield client

    @asynccontextmanager
    async def at(self, node: Node) -> AsyncIterator[Redis]:
        """Yields a client of one node, and closes it."""
        access = self.topology.access
        pool = FreshPool(
            lambda: access.arguments() | node._asdict(), lambda: access.version, max_connections=1
        )
        async with PlainClient.from_pool(pool) as client:
            yield client


class _OwnerPool(FreshPool):
    """A pool whose connections lead to the owner of a key.

    Args:
        topology: the cluster.
        key: the key.
        max_connections: at most so many connections are open.
    """

    def __init__(self, topology: Cluster, key: str, max_connections: int) -> None:
        access = topology.access
        self._topology = topology
        self._key = key
        super().__init__(
            lambda: access.arguments() | {"locate": partial(topology.owner_of, key)},
            lambda: access.version,
            max_connections=max_connections,
        )

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Opens a connection, to another master if a node knows one when this one cannot be reached."""
        lost: set[Node | None] = set()
        while True:
            try:
                await super().ensure_connection(connection)
            except NoNodeAnswersError:
                raise
            except (NotConnectedError, RedisTimeoutError):
                lost.add(node_of(connection))
                if not await self._other_is_known(lost):
                    raise
            else:
                return

    async def _other_is_known(self, lost: Collection[Node | None]) -> bool:
        try:
            return await self._topology.names_other_owner(self._key, lost)
        except RedisError:
            return False


class _ClusterPipeline(PlainPipeline):
    """A pipeline that repeats the commands that the node has not executed, one by one."""

    in_cluster = True
    origin: ClusterClient

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        """Returns the replies; refused commands have an error unless `raise_on_error`. Raises RedisError."""
        commands = [*self.command_stack]
        replies = await super().execute(raise_on_error=False)
        for at, (args, options) in enumerate(commands):
            if isinstance(replies[at], REDIRECTS):
                try:
                    replies[at] = await self.origin.execute_command(*args, **options)
                except ResponseError as error:
                    replies[at] = error
            if raise_on_error and isinstance(replies[at], ResponseError):
                raise replies[at]
        return replies


@asynccontextmanager
async def open_cluster_client(
    access: StoreAccess, key: str, max_connections: int
) -> AsyncIterator[ClusterClient]:
    """Yields a client that leads to the owner of `key`, and closes it."""
    cluster = Cluster(access)
    try:
        async with _client(cluster, key, max_connections) as client:
            yield client
    finally:
        await cluster.aclose()


def _client(cluster: Cluster, key: str, max_connections: int) -> ClusterClient:
    pool = _OwnerPool(cluster, key, max_connections)
    client = ClusterClient.from_pool(pool)
    assert isinstance(client, ClusterClient)  # noqa: S101 - redis-py's annotation names its own class
    client.topology = cluster
    return client
