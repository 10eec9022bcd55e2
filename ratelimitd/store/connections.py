"""redis-py's connections with a handshake that needs no permission, and with Happy Eyeballs (RFC 8305).

A name with several addresses may have a dead one in front, which answers nothing at all. The next address is
tried after ATTEMPT_DELAY_S, and the first one that accepts wins.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from socket import SOCK_STREAM, socket
from typing import Any

from aiohappyeyeballs import AddrInfoType, start_connection
from redis.asyncio import Connection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, ResponseError
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.credentials import Login
from ratelimitd.store.reply_errors import CLUSTER, SENTINEL, UnsupportedStoreError
from ratelimitd.store_tls import Tls
from ratelimitd.store_url import Node

ATTEMPT_DELAY_S = 0.25
"""How long an attempt to connect to one address runs before the next address is tried as well: RFC 8305."""

CLIENT_NAME = "ratelimitd"
"""The name of the connections in CLIENT LIST."""

UNSUPPORTED = {b"cluster": CLUSTER, b"sentinel": SENTINEL}
"""Reasons to refuse a server, by the mode that it reports."""


Locate = Callable[[], Awaitable[Node]]
"""Finds the server to connect to, such as the master that Sentinels name. Raises RedisError or OSError."""


async def addresses_of(host: str, port: int) -> list[AddrInfoType]:
    """Returns the addresses of a name, in the order in which the system prefers them."""
    return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)]


class _Handshake(AbstractConnection):
    """A connection whose handshake ends with commands that the store may refuse.

    An ACL can forbid CLIENT but not HELLO, so every user can find out what the server is.
    """

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Authenticates and selects the database, then names the connection and refuses a cluster.

        Raises RedisError; UnsupportedStoreError if the server cannot be a store.
        """
        refused = None
        try:
            await self._authenticate(check_health=check_health)
        except ResponseError as error:  # only SELECT may fail so; a cluster and a Sentinel refuse it
            error.args = (f"{error} (database {self.db} of the URL)",)
            refused = error
        commands = self.pack_commands([("CLIENT", "SETNAME", CLIENT_NAME), ("HELLO",)])
        await self.send_packed_command(commands, check_health=False)
        with suppress(ResponseError):
            await self.read_response()
        reason = UNSUPPORTED.get(await self._mode())
        if reason is not None:
            raise UnsupportedStoreError(reason)
        if refused is not None:
            raise refused

    async def _authenticate(self, *, check_health: bool) -> None:
        """Authenticates and selects the database, with the last accepted credentials if need be."""
        login = self.credential_provider
        try:
            await super().on_connect_check_health(check_health=check_health)
        except AuthenticationError as error:
            if not isinstance(login, Login) or not login.fall_back(str(error)):
                raise
            await super().on_connect_check_health(check_health=check_health)
        if isinstance(login, Login):
            login.accepted()

    async def _mode(self) -> bytes:
        """Returns what the server is, from its reply to HELLO; `b""` if it does not say."""
        with suppress(ResponseError):
            reply = await self.read_response()
            fields = dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else {}
            return bytes(fields.get(b"mode", b""))
        with suppress(ResponseError):  # a server before Redis 6, or a proxy, does not know HELLO
            await self.send_command("INFO", "server", check_health=False)
            info = await self.read_response()
            found = re.search(rb"redis_mode:(\w+)", info) if isinstance(info, bytes) else None
            return found[1] if found else b""
        return b""


class TcpConnection(_Handshake, Connection):
    """A TCP connection to the first address that accepts.

    Args:
        locate: finds the server at each connect, in place of `host` and `port`.
        tls: the TLS of the connection; None without TLS.
        arguments: those of redis-py's connection.
    """

    _socket: socket

    def __init__(self, *, locate: Locate | None = None, tls: Tls | None = None, **arguments: Any) -> None:
        self._locate = locate
        self._tls = tls
        super().__init__(**arguments)

    async def _connect(self) -> None:
        # redis-py bounds its own part, the TLS handshake; this bounds all of it.
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                await self._connect_to_first()
        except TimeoutError as error:
            kind = "TLS connection" if self._tls else "connection"
            raise NotConnectedError(
                f"no {kind} to {self.host}:{self.port} within {self.socket_connect_timeout:g} s"
            ) from error

    async def _connect_to_first(self) -> None:
        if self._locate is not None:
            self.host, self.port = await self._locate()
        self._socket = await start_connection(
            await addresses_of(self.host, self.port), happy_eyeballs_delay=ATTEMPT_DELAY_S, interleave=1
        )
        try:
            await super()._connect()  # type: ignore[no-untyped-call] # it is untyped
        except BaseException:
            self._socket.close()
            raise

    def _connection_arguments(self) -> Mapping[str, Any]:
        found: dict[str, Any] = {"sock": self._socket}
        if self._tls is not None:
            found |= {"ssl": self._tls.context, "server_hostname": self._tls.server_name or self.host}
        return found


class UnixConnection(_Handshake, UnixDomainSocketConnection):
    """A connection to a Unix socket."""

    async def on_connect(self) -> None:
        """Does nothing: redis-py calls this before the handshake, which would then happen twice."""
