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
    """The credentials of one kind of server. There may be several servers, which learn of new ones in turn.

    Args:
        find: returns them.

    Attributes:
        refused: whether a server refused the newest ones since this was last set to False.
    """

    def __init__(self, find: Find) -> None:
        self.find = find
        self.refused = False
        self._accepted: tuple[Pair, ...] = ()  # the last two, the later one first
        self._logged: Pair | None = None

    def accepted(self, pair: Pair) -> None:
        """Notes that a server has accepted these credentials, which were the newest ones."""
        if pair not in self._accepted[:1]:
            self._accepted = (pair, *self._accepted[:1])
        if pair != self._logged:
            self._logged = None

    def instead_of(self, pair: Pair) -> Pair | None:
        """Returns the credentials to try when a server refuses `pair`; None if there are no others."""
        return next((other for other in self._accepted if other != pair), None)

    def fell_back(self, pair: Pair, reason: str) -> None:
        """Notes that a server refused `pair`, and accepted others instead. Logs it once for each change."""
        self.refused = True
        if pair != self._logged:
            self._logged = pair
            log = structlog.get_logger("ratelimitd.store")
            log.warning("store_credentials_refused", reason=reason, in_use="the last accepted credentials")


class Login(CredentialProvider):
    """The credentials of one connection, in the form that redis-py asks for."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._newest: Pair = ("",)
        self._instead: Pair | None = None  # set while others are tried, because of this reason
        self._reason = ""

    async def get_credentials_async(self) -> Pair:
        """Returns the credentials to authenticate with now. Raises RedisError."""
        if self._instead is None:
            self._newest = await self._credentials.find()
        return self._instead or self._newest

    def accepted(self) -> None:
        """Notes that the store has accepted what it was given last."""
        if self._instead is None:
            self._credentials.accepted(self._newest)
        else:
            self._credentials.fell_back(self._newest, self._reason)
            self._instead = None

    def fall_back(self, reason: str) -> bool:
        """Chooses other credentials for the next attempt. Returns whether there are any."""
        refused_both = self._instead is not None
        self._instead = None if refused_both else self._credentials.instead_of(self._newest)
        self._reason = reason
        return self._instead is not None
