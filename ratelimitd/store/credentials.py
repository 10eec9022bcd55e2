"""What connections to the store authenticate with.

If the store refuses new credentials, the last accepted ones are used: a password may reach this process
before it reaches the store.
"""

from collections.abc import Awaitable, Callable

import structlog
from redis.credentials import CredentialProvider

from ratelimitd.store_source import Pair

Find = Callable[[], Awaitable[Pair]]
"""Returns the credentials of now. Raises RedisError."""


class Credentials:
    """The credentials of one kind of server.

    Args:
        find: returns them.
    """

    def __init__(self, find: Find) -> None:
        self.find = find
        self._accepted: Pair | None = None
        self._refused: Pair | None = None

    @property
    def refused(self) -> bool:
        """Whether the store has refused the newest credentials, and accepted none since."""
        return self._refused is not None

    def accepted(self, pair: Pair) -> None:
        """Notes that the store has accepted these credentials, which were the newest ones."""
        self._accepted = pair
        self._refused = None

    def instead_of(self, pair: Pair, reason: str) -> Pair | None:
        """Returns the credentials to use when the store refuses `pair`; None if there are no others."""
        if self._accepted is None or self._accepted == pair:
            return None
        if pair != self._refused:
            self._refused = pair
            log = structlog.get_logger("ratelimitd.store")
            log.warning("store_credentials_refused", reason=reason, in_use="the last accepted credentials")
        return self._accepted


class Login(CredentialProvider):
    """The credentials of one connection, in the form that redis-py asks for."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._newest: Pair | None = None  # None while others are in use instead
        self._instead: Pair | None = None

    async def get_credentials_async(self) -> Pair:
        """Returns the credentials to authenticate with now. Raises RedisError."""
        if self._instead is not None:
            instead, self._instead, self._newest = self._instead, None, None
            return instead
        self._newest = await self._credentials.find()
        return self._newest

    def accepted(self) -> None:
        """Notes that the store has accepted what it was given last."""
        if self._newest is not None:
            self._credentials.accepted(self._newest)

    def fall_back(self, reason: str) -> bool:
        """Chooses other credentials for the next attempt. Returns whether there are any."""
        if self._newest is not None:
            self._instead = self._credentials.instead_of(self._newest, reason)
        return self._instead is not None
