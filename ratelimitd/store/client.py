"""Opens a store by its URL. Every driver error leaves here as a StoreError, and only here."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from ratelimitd.errors import StoreError

MAX_CONNECTIONS = 4
"""The poll of the policy, the wait for a message, and two to spare. Decisions have a link of their own."""


def _options() -> dict[str, Any]:
    """How every connection is made, unless the URL says otherwise.

    The driver must not retry by itself: a call that was cut off may have taken its tokens already.
    """
    return {
        "client_name": "ratelimitd",
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }


def new_connection(url: str) -> AbstractConnection:
    """A connection to `url`, not made yet. Raises ValueError, TypeError or RedisError for a bad URL."""
    pool = ConnectionPool.from_url(url, **_options())
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call] # it is untyped
    return connection


@asynccontextmanager
async def open_client(url: str) -> AsyncIterator[Redis]:
    """A client for `url`, closed at the end. It connects when first used, so a store may come later."""
    pool = BlockingConnectionPool.from_url(url, max_connections=MAX_CONNECTIONS, timeout=None, **_options())
    async with Redis.from_pool(pool) as client:
        yield client


@contextmanager
def store_errors() -> Iterator[None]:
    """Turns what a driver may raise, its time-outs included, into StoreError."""
    try:
        yield
    except TimeoutError as error:
        raise StoreError("the store did not answer in time") from error
    except (RedisError, OSError) as error:
        raise StoreError(f"the store failed: {error}") from error
