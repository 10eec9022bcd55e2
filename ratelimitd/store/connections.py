"""redis-py's connections with a handshake that needs no permission, and with Happy Eyeballs (RFC 8305).

A name with several addresses may have a dead one in front, which answers nothing at all. The next address is
tried after ATTEMPT_DELAY_S, and the first one that accepts wins.
"""

import asyncio
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
from ratelimitd.store.reply_errors import NotMasterError, UnsupportedStoreError
from ratelimitd.store.server_kind import (
    CLUSTER_MODES,
    MASTER_ROLES,
    Server,
    cluster_instead_of_store,
    scheme_of,
    sentinel_instead_of_store,
    server_of,
    services_of,
)
from ratelimitd.store_tls import Tls
from ratelimitd.store_url import Node

ATTEMPT_DELAY_S = 0.25
"""How long an attempt to connect to one address runs before the next address is tried as well: RFC 8305."""

CLIENT_NAME = "ratelimitd"
"""The name of the connections in CLIENT LIST."""

Locate = Callable[[], Awaitable[Node]]
"""Finds the server to connect to, such as the master that Sentinels name. Raises RedisError or OSError."""


async def addresses_of(host: str, port: int) -> list[AddrInfoType]:
    """Returns the addresses of a name, in the order in which the system prefers them."""
    return [*await asyncio.get_running_loop().getaddrinfo(host, port, type=SOCK_STREAM)]


class _Handshake(AbstractConnection):
    """A connection whose handshake ends with commands that the store may refuse.

    An ACL can forbid CLIENT but not HELLO, so every user can find out what the server is.
    """

    in_cluster = False
    """Whether the server must be a node of a Redis Cluster."""

    credentials_come_from = "the URL, RATELIMITD_REDIS_PASSWORD_FILE or RATELIMITD_REDIS_CREDENTIALS"
    """The settings with the credentials, for the error of a server that refuses them."""

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002 - redis-py's
    ) -> None:
        """Connects, with the last accepted credentials if the server refuses the new ones.

        redis-py closes a connection whose AUTH fails, so this opens another. Raises RedisError or OSError.
        """
        login = self.credential_provider
        while True:
            try:
                await super().connect_check_health(check_health, retry_socket_connect)
            except AuthenticationError as error:
                if not isinstance(login, Login) or not login.fall_back(str(error)):
                    error.args = (f"{error} (the credentials come from {self.credentials_come_from})",)
                    raise
            else:
                return

    async def on_connect_check_health(self, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        """Authenticates and selects the database, then names the connection and refuses a cluster.

        Raises RedisError; UnsupportedStoreError if the server cannot be a store.
        """
        refused = None
        try:
            await super().on_connect_check_health(check_health=check_health)
        except ResponseError as error:  # only SELECT may fail so; a cluster and a Sentinel refuse it
            if str(error).startswith("BUSY "):  # a script runs, and SELECT may work later
                raise NotConnectedError(str(error)) from error
            error.args = (f"{error} (database {self.db} of the URL)",)
            refused = error
        if isinstance(self.credential_provider, Login):
            self.credential_provider.accepted()
        commands = self.pack_commands([("CLIENT", "SETNAME", CLIENT_NAME), ("HELLO",)])
        await self.send_packed_command(commands, check_health=False)
        with suppress(ResponseError):
            await self.read_response()
        await self.check_server(await server_of(self))
        if refused is not None:
            raise refused

    async def check_server(self, server: Server) -> None:
        """Raises UnsupportedStoreError if this kind of server cannot be a store."""
        if server.mode == b"sentinel":
            raise UnsupportedStoreError(
                sentinel_instead_of_store(node_of(self), scheme_of(self), await services_of(self))
            )
        if server.mode == b"cluster" and not self.in_cluster:
            raise UnsupportedStoreError(cluster_instead_of_store(node_of(self), scheme_of(self)))


def node_of(connection: Any) -> Node | None:
    """Returns the address that a connection was opened to; None for a socket."""
    return Node(connection.host, connection.port) if isinstance(connection, TcpConnection) else None


class TcpConnection(_Handshake, Connection):
    """A TCP connection to the first address that accepts.

    Args:
        locate: finds the server at each connect, in place of `host` and `port`.
        tls: the TLS of the connection; None without TLS.
        in_cluster: the server must be a node of a Redis Cluster.
        arguments: those of redis-py's connection.
    """

    _socket: socket

    def __init__(
        self,
        *,
        locate: Locate | None = None,
        tls: Tls | None = None,
        in_cluster: bool = False,
        **arguments: Any,
    ) -> None:
        self.in_cluster = in_cluster
        self._locate = locate
        self.tls = tls
        super().__init__(**arguments)

    async def connect_check_health(
        self,
        check_health: bool = True,  # noqa: FBT001, FBT002 - redis-py's
        retry_socket_connect: bool = True,  # noqa: FBT001, FBT002 - redis-py's
    ) -> None:
        """Connects, after it has located the server. Raises RedisError or OSError."""
        if self._locate is not None and not self.is_connected:
            self.host, self.port = await self._locate()
        await super().connect_check_health(check_health, retry_socket_connect)

    async def check_server(self, server: Server) -> None:
        """Raises UnsupportedStoreError, or NotMasterError if the located server is a replica."""
        await super().check_server(server)
        if self.in_cluster and server.mode not in CLUSTER_MODES:
            node = Node(self.host, self.port)
            raise UnsupportedStoreError(
                f"{node} is not a node of a Redis Cluster; expected {scheme_of(self)}://{node}"
            )
        if self._locate is not None and server.role not in MASTER_ROLES:
            raise NotMasterError(f"{Node(self.host, self.port)} was located as the master, but is a replica")

    async def _connect(self) -> None:
        # redis-py bounds its own part, the TLS handshake; this bounds all of it.
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                await self._connect_to_first()
        except TimeoutError as error:
            kind = "TLS connection" if self.tls else "connection"
            raise NotConnectedError(
                f"no {kind} to {self.host}:{self.port} within {self.socket_connect_timeout:g} s"
            ) from error

    async def _connect_to_first(self) -> None:
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
        if self.tls is not None:
            found |= {"ssl": self.tls.context, "server_hostname": self.tls.server_name or self.host}
        return found


class UnixConnection(_Handshake, UnixDomainSocketConnection):
    """A connection to a Unix socket."""

    async def on_connect(self) -> None:
        """Does nothing: redis-py calls this before the handshake, which would then happen twice."""
