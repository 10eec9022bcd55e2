"""A pool of connections that follows a failover behind one address.

A virtual IP, a TCP balancer, a Kubernetes Service or a DNS name may lead to another server than before, while
open connections still lead to the old one. That one may be a read-only replica by now, hang, or still take
writes that are lost. So the pool replaces a connection before its next use when

- a reply said that the server is not the master, or any connection failed or did not answer in time,
- the connection of decisions was replaced, which notices all of this earlier,
- it leads to another server than the master that Sentinels name, or
- the connection is older than MAX_AGE_S.
"""

import time
from collections.abc import Callable, Collection
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MasterDownError, MovedError, ReadOnlyError, ResponseError

from ratelimitd.store.connections import node_of
from ratelimitd.store.sentinel import Sentinels
from ratelimitd.store_url import Node

MAX_AGE_S = 10.0
"""Bounds how long an old server that still takes writes is used. A new connection takes a few round trips."""


class FreshPool(BlockingConnectionPool):
    """A pool whose connections lead to the server that the address leads to now.

    Args:
        arguments: returns the class of a new connection, as `connection_class`, and its arguments.
        version: returns a number that changes when the arguments do.
        locate: finds the store at each connect, if its address is not fixed.
        max_connections: at most so many connections are open. A caller waits for the next free one.
    """

    def __init__(
        self,
        arguments: Callable[[], dict[str, Any]],
        version: Callable[[], int],
        locate: Sentinels | None = None,
        *,
        max_connections: int,
    ) -> None:
        self._given_up = 0
        self._arguments = arguments
        self._version = version
        self._replacements: Callable[[], int] = lambda: 0
        self.locate = locate
        self.masters: Collection[Node] = ()
        """Servers that connections must lead to; all do if it is empty."""
        self._made: WeakKeyDictionary[AbstractConnection, tuple[int, float]] = WeakKeyDictionary()
        super().__init__(max_connections=max_connections, timeout=None, protocol=2)  # the client asks for it

    def follow(self, replacements: Callable[[], int]) -> None:
        """Makes the pool replace its connections whenever this number has changed."""
        self._replacements = replacements

    def lead_to(self, masters: Collection[Node]) -> None:
        """Makes the pool replace connections that lead to none of these servers."""
        self.masters = masters

    def is_outdated(self, connection: AbstractConnection) -> bool:
        """Returns whether a connection must be replaced before its next use."""
        if self.masters and node_of(connection) not in self.masters:
            return True
        epoch, made_s = self._made.get(connection, (-1, 0.0))
        return epoch != self._epoch() or time.monotonic() - made_s > MAX_AGE_S

    def make_connection(self) -> AbstractConnection:
        """Returns a new connection that is not open yet."""
        arguments = self._arguments() | ({"locate": self.locate} if self.locate else {})
        connection: AbstractConnection = _watched(arguments.pop("connection_class"))(**arguments)
        self._made[connection] = (self._epoch(), time.monotonic())
        return connection

    async def get_connection(self, *_arguments: Any, **_named: Any) -> AbstractConnection:
        """Returns an open connection, in place of an outdated one if need be. The caller gives it back."""
        for connection in [*self._available_connections]:
            if not connection.is_connected or self.is_outdated(connection):
                self._available_connections.remove(connection)
                await connection.disconnect(nowait=True)
        opened: AbstractConnection = await super().get_connection()  # type: ignore[no-untyped-call] # it is untyped
        return opened

    async def renew(self) -> None:
        """Replaces the connections that are free and outdated by one. Raises RedisError or OSError."""
        await self.release(await self.get_connection())

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        """Opens a connection, anew if it became outdated while a caller waited for it."""
        if self.is_outdated(connection):
            await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        """Takes a connection back. If it failed, none of those opened so far is used again."""
        if isinstance(connection, _Watched) and connection.failed:
            connection.failed = False
            self._given_up += 1
        await super().release(connection)

    def _epoch(self) -> int:
        return self._given_up + self._replacements() + self._version()


class _Watched(AbstractConnection):
    """A connection that notes whether it failed, or leads to a server that is not the master."""

    failed = False

    async def read_response(self, *arguments: Any, **named: Any) -> Any:
        """Returns the next reply."""
        try:
            return await super().read_response(*arguments, **named)
        except (ReadOnlyError, MasterDownError):
            self.failed = True
            raise
        except AskError as error:  # a MovedError is one in redis-py
            error.host = error.host or self.host
            self.failed = isinstance(error, MovedError)
            raise
        except ResponseError:
            raise
        except BaseException:  # a lost connection, or the timeout of a caller
            self.failed = True
            raise


@cache
def _watched(kind: type[AbstractConnection]) -> type[AbstractConnection]:
    """Returns the class with what the pool needs to know."""
    return type(f"Watched{kind.__name__}", (_Watched, kind), {})


def pool_of(client: Redis) -> FreshPool:
    """Returns the pool of a client from `open_client`."""
    pool = client.connection_pool
    assert isinstance(pool, FreshPool)  # noqa: S101 - open_client makes no other
    return pool
