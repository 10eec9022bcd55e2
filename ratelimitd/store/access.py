"""How to reach a store now: its servers, credentials and TLS, which may change while the process runs.

Each new connection reads the files that the settings name, and so does store/access_watch.py every second. If
one cannot be used, a line in the log says so, and the last good value stays in use.
"""

import asyncio
import threading
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from ratelimitd.errors import SettingsError
from ratelimitd.settings_table import Settings, env_name
from ratelimitd.store.connections import TcpConnection, UnixConnection
from ratelimitd.store.credentials import Credentials, Login
from ratelimitd.store.last_good import LastGood
from ratelimitd.store.provider import Provided
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
        source: where the URL and the credentials come from. Raises ValueError with a sentence if a file or a
            class cannot be used.
    """

    def __init__(self, source: StoreSource) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._server = LastGood(
            env_name("redis_url_file" if source.url_file else "redis_url"), ServerReader(source).read
        )
        self._password = LastGood(
            env_name("redis_password_file"), lambda: pair_of_file(source.username, source.password_file)
        )
        self._sentinel_password = LastGood(
            env_name("sentinel_password_file"),
            lambda: pair_of_file(source.sentinel_username, source.sentinel_password_file),
        )
        self._provided = Provided(source.provider) if source.provider else None
        self._credentials = Credentials(self._find)
        self._sentinel_credentials = Credentials(self._find_sentinel)
        self._seen = self._state()
        self.version = 0
        """A number that grows when open connections must be replaced: the servers or the credentials have
        changed. A new certificate is not a change."""

    @property
    def url(self) -> StoreUrl:
        """The URL in use, without credentials."""
        return self._server.value.url

    @property
    def may_change(self) -> bool:
        """Whether there are files or a credential provider."""
        source = self._source
        return bool(
            source.url_file
            or source.password_file
            or source.sentinel_password_file
            or self._provided
            or self._server.value.tls
        )

    @property
    def credentials_refused(self) -> bool:
        """Whether a server refused the newest credentials since `forget_refusals` was called."""
        return self._credentials.refused or self._sentinel_credentials.refused

    def forget_refusals(self) -> None:
        """Makes `credentials_refused` false until a server refuses the newest credentials again."""
        self._credentials.refused = self._sentinel_credentials.refused = False

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
        if server.url.topology == "cluster":
            found["in_cluster"] = True
        if server.tls is not None:
            found["tls"] = server.tls
        if self._pair() or self._provided:
            found["credential_provider"] = Login(self._credentials)
        return found

    def sentinel_arguments(self) -> dict[str, Any]:
        """Returns the arguments of a connection to a Sentinel, except for `host` and `port`.

        Sentinels have credentials of their own, and share TLS with the store unless the URL turns it off.
        """
        self.refresh()
        server = self._server.value
        options = server.url.sentinel
        arguments = server.url.arguments
        found = _OF_ALL | {name: arguments[name] for name in _SHARED_WITH_SENTINELS if name in arguments}
        if server.tls is not None and options.get("sentinel_tls", True):
            found["tls"] = server.tls
        if self._sentinel_pair():
            found["credential_provider"] = Login(self._sentinel_credentials)
        return found

    def refresh(self) -> None:
        """Reads the files again. Any thread may call it."""
        if not self._lock.acquire(blocking=False):
            return  # another thread reads them now
        try:
            for files in (self._server, self._password, self._sentinel_password):
                files.refresh()
            if self._state() != self._seen:
                self._seen = self._state()
                self.version += 1
        finally:
            self._lock.release()

    def try_again(self) -> None:
        """Makes open connections be replaced, because a server refused the credentials for them."""
        self.version += 1

    async def poll(self) -> None:
        """Reads the files again, in a thread, and asks the credential provider if it is time to."""
        await asyncio.to_thread(self.refresh)
        if self._provided is not None:
            with suppress(RedisError):  # it is in the log, and it fails the next connection
                await self._provided.poll()
            self.refresh()

    def _pair(self) -> Pair | None:
        return self._password.value or self._server.value.credentials

    def _sentinel_pair(self) -> Pair | None:
        options = self.url.sentinel
        password, username = options.get("sentinel_password"), options.get("sentinel_username")
        of_url = password and ((username, password) if username else (password,))
        return self._sentinel_password.value or of_url or None

    async def _find(self) -> Pair:
        if self._provided is not None:
            return await self._provided.find()
        self.refresh()
        return self._pair() or ("",)

    async def _find_sentinel(self) -> Pair:
        self.refresh()
        return self._sentinel_pair() or ("",)

    def _state(self) -> object:
        return self.url, self._pair(), self._sentinel_pair(), self._provided and self._provided.generation


Store = StoreAccess | str
"""A way to a store, or its URL."""


def access_to(store: Store) -> StoreAccess:
    """Returns the way to a store. Raises ValueError."""
    return StoreAccess(StoreSource(url=store)) if isinstance(store, str) else store


def access_by(settings: Settings) -> StoreAccess:
    """Returns the way to the store of the settings. Raises SettingsError."""
    try:
        return StoreAccess(settings.store_source())
    except ValueError as error:
        raise SettingsError(str(error)) from error


def make_connection(arguments: dict[str, Any]) -> AbstractConnection:
    """Returns a connection that is not open yet, with arguments in the form of `StoreAccess.arguments`."""
    arguments = dict(arguments)
    kind: type[AbstractConnection] = arguments.pop("connection_class")
    return kind(**arguments)
