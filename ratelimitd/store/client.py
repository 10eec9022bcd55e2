"""Connects to the store by its URL, with redis-py. Driver errors become StoreError here and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import RedisError, ResponseError

from ratelimitd.errors import StoreError
from ratelimitd.settings_table import CONFIG_KEY
from ratelimitd.store.access import Store, StoreAccess, access_to, make_connection
from ratelimitd.store.cluster import Cluster
from ratelimitd.store.cluster_client import open_cluster_client
from ratelimitd.store.connections import Locate, node_of
from ratelimitd.store.fresh_pool import FreshPool
from ratelimitd.store.link import Connect, Connection
from ratelimitd.store.plain_client import PlainClient
from ratelimitd.store.reply_errors import UnsupportedStoreError
from ratelimitd.store.sentinel import locating
from ratelimitd.store.tls_problem import tls_problem
from ratelimitd.store_url import Node

MAX_CONNECTIONS = 4
"""One polls the policy, one waits for messages, two are spare. Decisions use a link (store/link.py)."""

PROBE_TIMEOUT_S = 1.0
"""How long a start waits for the answer to what kind of server the store is."""


@asynccontextmanager
async def open_client(store: Store, key: str = CONFIG_KEY) -> AsyncIterator[Redis]:
    """Yields a client of a store and closes it. It connects at its first use, so a store may start later.

    In a cluster it leads to the master that owns `key`.
    """
    access = access_to(store)
    if access.url.topology == "cluster":
        async with open_cluster_client(access, key, MAX_CONNECTIONS) as in_cluster:
            yield in_cluster
        return
    async with locating(access) as locate:
        pool = FreshPool(access.arguments, lambda: access.version, locate, max_connections=MAX_CONNECTIONS)
        async with PlainClient.from_pool(pool) as client:
            yield client


def new_connection(store: Store, locate: Locate | None = None) -> AbstractConnection:
    """Returns a connection to a store that is not open yet. `locate` finds the server. Raises ValueError."""
    arguments = access_to(store).arguments()
    return make_connection(arguments | {"locate": locate} if locate else arguments)


async def refuse_unsupported(store: Store) -> None:
    """Raises StoreError if a cluster, a Sentinel, or a server without the URL's database answers.

    It raises StoreError as well if TLS cannot work, for example because the certificate has another name.
    Any other failure is not an error here, because the store may start later than its users.
    """
    access = access_to(store)
    if access.url.topology == "cluster":
        await _refuse_unless_cluster(access)
        return
    async with locating(access) as locate:
        connection = new_connection(access, locate)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await connection.connect()  # type: ignore[no-untyped-call] # it is untyped
        except (UnsupportedStoreError, ResponseError) as error:  # of all commands only SELECT may fail so
            raise StoreError(f"the store cannot be used: {error}") from error
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            await connection.disconnect(nowait=True)
            if problem := await tls_problem(connection, error):
                raise StoreError(f"the store cannot be used: {problem}") from error
        finally:
            await connection.disconnect(nowait=True)


async def _refuse_unless_cluster(access: StoreAccess) -> None:
    """Raises StoreError if a server of another kind answers."""
    cluster = Cluster(access)
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await cluster.refresh()
    except UnsupportedStoreError as error:
        raise StoreError(f"the store cannot be used: {error}") from error
    except (RedisError, TimeoutError):
        pass
    finally:
        await cluster.aclose()


def connector(store: Store, locate: Locate | None = None) -> Connect:
    """Returns the function that opens connections to a store for a link. `locate` finds the server."""
    access = access_to(store)
    return lambda: negotiate(new_connection(access, locate))


async def negotiate(connection: AbstractConnection) -> Connection:
    """Opens a connection of redis-py for a link: TLS, AUTH, SELECT, CLIENT SETNAME, HELLO.

    redis-py bounds each step to 5 s, unless the URL says otherwise. Raises RedisError if the store cannot be
    reached, refuses a step, or sends more than it should.
    """
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # it is untyped
        negotiated = _Negotiated(connection)
        await negotiated.check()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return negotiated


class _Negotiated:
    """A connection of redis-py in the shape that a link needs.

    redis-py has no public name for the transport, so this reads a private attribute. A release of redis-py
    without it could not connect, and the error of each attempt would name the attribute.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001 - see above

    @property
    def node(self) -> Node | None:
        """The address that the connection was opened to; None for a socket."""
        return node_of(self._connection)

    async def check(self) -> None:
        """Raises ConnectionError if the connection is lost already, or if there is something to read."""
        if self.transport.is_closing() or await self._connection.can_read():
            raise NotConnectedError("the store closed the connection or sent an unexpected reply")

    async def close(self) -> None:
        """Closes the connection and waits until it is closed."""
        await self._connection.disconnect()


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns the driver's errors, timeouts included, into StoreError."""
    try:
        yield
    except TimeoutError as error:
        raise StoreError("the store did not answer in time") from error
    except (RedisError, OSError) as error:
        raise StoreError(f"the store failed: {error}") from error
