"""The URL of a store: checked at start, before anything connects to it."""

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

SCHEMES = ("redis://", "rediss://", "unix://")
"""What a store's URL may begin with: plain TCP, TLS, a Unix socket."""


def check_store_url(url: str) -> None:
    """Raises ValueError, with a sentence, for a URL that no store can have."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"it must begin with {', '.join(SCHEMES)} or be `embedded`")
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call] # it is untyped
    except (ValueError, TypeError, RedisError) as error:
        # Its own text may quote the password.
        raise ValueError(
            "it is no URL of a store; right is SCHEME://HOST:PORT/DATABASE, "
            "or with USER:PASSWORD@ before the host, each with / @ : ? and # percent-encoded"
        ) from error
