"""Checks the URL of a store at start-up, before anything connects."""

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError

SCHEMES = ("redis://", "rediss://", "unix://")
"""Prefixes of a store URL: TCP, TLS, Unix socket."""


def check_store_url(url: str) -> None:
    """Raises ValueError, with a sentence, for a URL that redis-py cannot use."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"must begin with {', '.join(SCHEMES)}, or be `embedded`")
    try:
        ConnectionPool.from_url(url).make_connection()  # type: ignore[no-untyped-call] # it is untyped
    except (ValueError, TypeError, RedisError) as error:
        # The text of the original error may contain the password.
        raise ValueError(
            "not a valid store URL; expected SCHEME://HOST:PORT/DB or SCHEME://USER:PASSWORD@HOST:PORT/DB, "
            "with / @ : ? and # percent-encoded in USER and PASSWORD"
        ) from error
