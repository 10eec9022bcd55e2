"""Connects to the store by its URL, with redis-py. Driver errors become StoreError here and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError

from ratelimitd.errors import StoreError
from ratelimitd.store.access import Store, access_to, make_connection
from ratelimitd.store.connections import Locate, node_of
from ratelimitd.store.fresh_pool import FreshPool
from ratelimitd.store.link import Connect, Connection
from ratelimitd.store.reply_errors import UnsupportedStoreError, name_command
from ratelimitd.store.sentinel import locating
from ratelimitd.store.tls_problem import tls_problem
from ratelimitd.store_url import Node

MAX_CONNECTIONS = 4
"""One polls the policy, one waits for messages, two are spare. Decisions use a link (store/link.py)."""

PROBE_TIMEOUT_S = 1.0
"""How long a start waits for the answer to what kind of server the store is."""


@asynccontextmanager
async def open_client(store: Store) -> AsyncIterator[Redis]:
    """Yields a client of a store and closes it. It connects at its first use, so a store may start later."""
    access = access_to(store)
    async with locating(access) as locate:
        pool = FreshPool(access.arguments, lambda: access.version, locate, max_connections=MAX_CONNECTIONS)
        async with _Client.from_pool(pool) as client:
            yield client


class _Client(Redis):
    """A client that finds the new master for a write, and whose errors name the command that was refused."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Returns the reply to a command. Raises RedisError."""
        try:
            return await self._execute_once(*args, **options)
        except ReadOnlyError:  # not executed, so it may be repeated: the pool opens a new connection
            return await self._execute_once(*args, **options)

    async def _execute_once(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call] # it is untyped
        except ResponseError as error:
            name_command(error, args)
            raise

    def pipeline(
        self,
        transaction: bool = True,  # noqa: FBT001, FBT002 - redis-py's signature
        shard_hint: str | None = None,
    ) -> "_Pipeline":
        """Returns a pipeline that sends its commands together."""
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    """A pipeline whose errors name the command that the store refused."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 - redis-py's signature
        """Returns the replies; refused commands have an error unless `raise_on_error`. Raises RedisError."""
        commands = [command for command, _ in self.command_stack]
        replies = await super().execute(raise_on_error=False)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ResponseError):
                name_command(reply, [*command])
                if raise_on_error:
                    raise reply
        return replies


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
