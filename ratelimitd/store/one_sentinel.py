"""One Sentinel: which server it names as the master.

Its connection stays open: in an outage every replica asks often, and new TLS connections would keep the
Sentinels from their work.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import InvalidResponse, ResponseError

from ratelimitd.process.background import cancelled
from ratelimitd.store.connections import TcpConnection
from ratelimitd.store.reply_errors import UnsupportedStoreError
from ratelimitd.store.server_kind import Server, scheme_of, services_of
from ratelimitd.store_url import MAX_PORT, Node

ASK_S = 5.0
"""How long a Sentinel may take to connect and to answer. A slow answer serves later questions."""

_SENTINEL_MODES = {b"sentinel", b""}
"""The mode of a Sentinel; empty if it does not say."""


class Answer(NamedTuple):
    """What one Sentinel answered.

    Args:
        master: the address of the master.
        epoch: the version of the configuration that this address is part of.
    """

    master: Node
    epoch: int


class UnknownServiceError(UnsupportedStoreError):
    """A Sentinel does not watch a master of this name."""


class Sentinel:
    """One Sentinel and the connection to it, which is opened when it is first asked.

    Args:
        node: its address.
        service: the name of the master.
        arguments: returns the arguments of a new connection.
    """

    def __init__(self, node: Node, service: str, arguments: Callable[[], dict[str, Any]]) -> None:
        self.node = node
        self._service = service
        self._arguments = arguments
        self._connection: _SentinelConnection | None = None
        self._asking: asyncio.Task[Answer | Exception] | None = None

    def ask(self) -> "asyncio.Task[Answer | Exception]":
        """Starts to ask. A question that is still open is not asked again: its answer will be as new."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def aclose(self) -> None:
        """Closes the connection."""
        if self._asking is not None:
            await cancelled(self._asking)
        await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _ask(self) -> Answer | Exception:
        try:
            async with asyncio.timeout(ASK_S):
                if self._connection is not None:
                    try:
                        return await self._answer(self._connection)
                    except UnsupportedStoreError:
                        raise
                    except NotConnectedError:  # the Sentinel has closed it since the last question
                        await self._disconnect()
                self._connection = _SentinelConnection(**self._arguments() | self.node._asdict())
                await self._connection.connect()  # type: ignore[no-untyped-call] # it is untyped
                return await self._answer(self._connection)
        except BaseException as error:
            await self._disconnect()  # replies may be outstanding
            if not isinstance(error, Exception):
                raise
            return _reason(error)

    async def _answer(self, connection: AbstractConnection) -> Answer:
        """Asks for the address, which is newer during a failover, and for the epoch."""
        commands = [("GET-MASTER-ADDR-BY-NAME", self._service), ("MASTER", self._service)]
        packed = connection.pack_commands([("SENTINEL", *command) for command in commands])
        await connection.send_packed_command(packed, check_health=False)
        address = await connection.read_response()
        epoch = 0
        with suppress(ResponseError):  # an ACL may forbid it, and it is an error for an unknown name
            epoch = _epoch(await connection.read_response())
        if address is None:
            raise UnknownServiceError(self._unknown(await services_of(connection)))
        return Answer(_node(address), epoch)

    def _unknown(self, services: list[str]) -> str:
        known = f"it watches {', '.join(services)}" if services else "it names none that it watches"
        return f"the Sentinel {self.node} does not watch a master named {self._service!r}; {known}"


class _SentinelConnection(TcpConnection):
    """A connection that leads to a Sentinel only."""

    credentials_come_from = (
        "the options sentinel_username and sentinel_password of the URL, or RATELIMITD_SENTINEL_PASSWORD_FILE"
    )

    async def check_server(self, server: Server) -> None:
        """Raises UnsupportedStoreError if the server is not a Sentinel."""
        node, scheme = Node(self.host, self.port), scheme_of(self)
        if server.mode == b"cluster":
            raise UnsupportedStoreError(
                f"{node} is a node of a Redis Cluster and not a Sentinel; expected {scheme}+cluster://{node}"
            )
        if server.mode not in _SENTINEL_MODES:
            raise UnsupportedStoreError(
                f"{node} is a store and not a Sentinel; expected {scheme}://{node}, "
                "or the ports of the Sentinels, which are 26379 by default"
            )


def answer_of(task: "asyncio.Task[Answer | Exception]") -> Answer | Exception:
    """Returns what a Sentinel answered. A task is cancelled when a change closes its connection."""
    return NotConnectedError("the way to it has changed") if task.cancelled() else task.result()


def _reason(error: Exception) -> Exception:
    """Returns why a Sentinel did not answer."""
    if isinstance(error, TimeoutError):
        return TimeoutError(f"no answer within {ASK_S:g} s")
    return error


def _node(address: Any) -> Node:
    """Returns the address in a Sentinel's reply. Raises InvalidResponse."""
    with suppress(TypeError, ValueError, AttributeError):
        host, port = address[0].decode(), int(address[1])
        if host and 0 < port <= MAX_PORT:
            return Node(host, port)
    raise InvalidResponse(f"a Sentinel sent {address!r:.60} as the address of the master")


def _epoch(reply: Any) -> int:
    """Returns the configuration epoch in a Sentinel's reply; 0 if it has none."""
    with suppress(TypeError, ValueError):
        return int(dict(zip(reply[::2], reply[1::2], strict=False)).get(b"config-epoch", 0))
    return 0
