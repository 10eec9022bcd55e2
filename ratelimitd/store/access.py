"""How to reach a store now: its servers, credentials and TLS, which may change while the process runs.

Each new connection reads the files that the settings name. If one cannot be used, a line in the log says so,
and the last good value stays in use.
"""

import threading
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from ratelimitd.settings_table import Settings, env_name
from ratelimitd.store.connections import TcpConnection, UnixConnection
from ratelimitd.store.credentials import Credentials, Login
from ratelimitd.store.last_good import LastGood
from ratelimitd.store.reply_errors import CodedParser
from ratelimitd.store_source import Pair, ServerReader, StoreSource, pair_of_file
from ratelimitd.store_url import StoreUrl

_OF_ALL: dict[str, Any] = {
    "driver_info": None,  # without it, redis-py sends CLIENT SETINFO
    "parser_class": CodedParser,
    "protocol": 2,
    # The driver must not retry by itself: a call whose connection broke may have taken its tokens.
    "retry": Retry(NoBackoff(), 0),
    "maint_notifications_config": MaintNotificationsConfig(enabled=False),
}
"""Arguments of every connection."""

_SHARED_WITH_SENTINELS = ("socket_connect_timeout", "socket_keepalive", "socket_timeout")


class StoreAccess:
    """The way to a store, for connections of all kinds.

    Args:
        source: where the URL and the credentials come from. Raises ValueError if a file cannot be used.
    """

    def __init__(self, source: StoreSource) -> None:
        self._lock = threading.Lock()
        url_setting = env_name("redis_url_file" if source.url_file else "redis_url")
        self._server = LastGood(url_setting, ServerReader(source).read)
        self._password = LastGood(
            env_name("redis_password_file"), lambda: pair_of_file(source.username, source.password_file)
        )
        self._credentials = Credentials(self._find)
        self._seen = self._state()
        self.version = 0
        """The number of changes of the servers or the credentials. Connections that were made before a change
        must be replaced."""

    @property
    def url(self) -> StoreUrl:
        """The URL in use, without credentials."""
        return self._server.value.url

    def refresh(self) -> None:
        """Reads the files again. Any thread may call it."""
        if not self._lock.acquire(blocking=False):
            return  # another thread reads them now
        try:
            self._server.refresh()
            self._password.refresh()
            if self._state() != self._seen:
                self._seen = self._state()
                self.version += 1
        finally:
            self._lock.release()

    def arguments(self) -> dict[str, Any]:
        """Returns the class of a connection made now, as `connection_class`, and its arguments.

        For another server of the store, replace `host` and `port`, or add `locate`.
        """
        self.refresh()
        server = self._server.value
        found = server.url.arguments | {
            "connection_class": UnixConnection if server.url.scheme == "unix" else TcpConnection,
            **_OF_ALL,
        }
        if server.tls is not None:
            found["tls"] = server.tls
        if self._pair() is not None:
            found["credential_provider"] = Login(self._credentials)
        return found

    def sentinel_arguments(self) -> dict[str, Any]:
        """Returns the arguments of a connection to a Sentinel, except for `host` and `port`.

        Sentinels have credentials of their own, and share TLS with the store unless the URL turns it off.
        """
        self.refresh()
        server = self._server.value
        options = server.url.sentinel
        found = {name: server.url.arguments.get(name) for name in _SHARED_WITH_SENTINELS} | _OF_ALL
        found = {name: value for name, value in found.items() if value is not None}
        if server.tls is not None and options.get("sentinel_tls", True):
            found["tls"] = server.tls
        if "sentinel_password" in options:
            found |= {"username": options.get("sentinel_username"), "password": options["sentinel_password"]}
        return found

    def _pair(self) -> Pair | None:
        return self._password.value or self._server.value.credentials

    async def _find(self) -> Pair:
        return self._pair() or ("",)

    def _state(self) -> object:
        return self.url, self._pair()


Store = StoreAccess | str
"""A way to a store, or its URL."""


def access_to(store: Store) -> StoreAccess:
    """Returns the way to a store. Raises ValueError."""
    return StoreAccess(StoreSource(url=store)) if isinstance(store, str) else store


def access_by(settings: Settings) -> StoreAccess:
    """Returns the way to the store of the settings. Raises ValueError."""
    return StoreAccess(StoreSource(url=settings.redis_url))


def make_connection(arguments: dict[str, Any]) -> AbstractConnection:
    """Returns a connection that is not open yet, with arguments in the form of `StoreAccess.arguments`."""
    arguments = dict(arguments)
    kind: type[AbstractConnection] = arguments.pop("connection_class")
    return kind(**arguments)
