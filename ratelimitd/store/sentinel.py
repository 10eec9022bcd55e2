"""Finds the master that Sentinels watch, and notices when it is another one.

All Sentinels are asked at once, so one that is down or hangs costs little time. A Sentinel that was cut off
may name an old master: the answer with the highest configuration epoch is the newest one.

Each Sentinel has one connection, which stays open: in an outage every replica asks often, and new TLS
connections would keep the Sentinels from their work.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ratelimitd.process.background import cancelled
from ratelimitd.store.access import StoreAccess
from ratelimitd.store.connections import Server, TcpConnection, scheme_of, services_of
from ratelimitd.store.reply_errors import UnsupportedStoreError
from ratelimitd.store_url import MAX_PORT, Node

FIRST_ANSWER_S = 1.0
"""How long the first answer may take."""

OTHER_ANSWERS_S = 0.1
"""How much later than the first answer the others may arrive. A Sentinel that hangs delays connects."""

ASK_S = 5.0
"""How long a Sentinel may take to connect and to answer. A slow answer serves later questions."""

_SENTINEL_MODES = {b"sentinel", b""}
"""The mode of a Sentinel; empty if it does not tell."""


class Answer(NamedTuple):
    """What one Sentinel answered.

    Args:
        master: the address of the master.
        epoch: the version of the configuration that this address is part of.
    """

    master: Node
    epoch: int


class Survey(NamedTuple):
    """What the Sentinels answered together.

    Args:
        masters: the addresses with the highest epoch; several only if some Sentinels use host names.
        failures: why the other Sentinels named no master, by their address.
    """

    masters: tuple[Node, ...]
    failures: dict[Node, Exception]


class UnknownServiceError(UnsupportedStoreError):
    """A Sentinel does not watch a master of this name."""


class Sentinels:
    """The Sentinels of a store URL. Call it to locate the master; it is a `Locate`.

    Args:
        access: the way to the store. Its URL may change.
    """

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._sentinels: dict[tuple[Node, str, int], _Sentinel] = {}

    async def __call__(self) -> Node:
        """Returns the address of the master. Raises RedisError; UnsupportedStoreError if the URL is wrong."""
        return (await self.survey()).masters[0]

    async def survey(self) -> Survey:
        """Asks all Sentinels. Raises RedisError if none of them names a master."""
        asking = {sentinel.ask(): sentinel.node for sentinel in await self._of_url()}
        await _first_and_soon(asking)
        answers: list[Answer] = []
        failures: dict[Node, Exception] = {}
        for task, node in asking.items():
            if not task.done():
                failures[node] = TimeoutError("no answer in time")
            elif isinstance(found := _result(task), Answer):
                answers.append(found)
            else:
                failures[node] = found
        if not answers:
            raise self._failed(failures)
        newest = max(answer.epoch for answer in answers)
        masters = dict.fromkeys(answer.master for answer in answers if answer.epoch == newest)
        return Survey(tuple(masters), failures)

    async def _of_url(self) -> "list[_Sentinel]":
        """Returns the Sentinels that the URL names now. After a change, the connections are new ones."""
        url, version = self._access.url, self._access.version
        named = [(node, url.service, version) for node in url.nodes]
        gone = [self._sentinels.pop(key) for key in self._sentinels.keys() - named]
        await asyncio.gather(*(sentinel.aclose() for sentinel in gone))
        for key in named:
            node, service, _ = key
            self._sentinels.setdefault(key, _Sentinel(node, service, self._access.sentinel_arguments))
        return [self._sentinels[key] for key in dict.fromkeys(named)]

    def _failed(self, failures: dict[Node, Exception]) -> RedisError:
        """Returns the error of a survey without an answer. A wrong URL is a better reason than an outage."""
        for kind in (UnknownServiceError, UnsupportedStoreError):
            for error in failures.values():
                if isinstance(error, kind):
                    return error
        return NotConnectedError(
            f"no Sentinel names the master {self._access.url.service!r}: {in_words(failures)}"
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(sentinel.aclose() for sentinel in self._sentinels.values()))


class _Sentinel:
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


@asynccontextmanager
async def locating(access: StoreAccess) -> AsyncIterator[Sentinels | None]:
    """Yields what finds the store of a URL that names Sentinels; None for another URL."""
    if access.url.topology != "sentinel":
        yield None
        return
    sentinels = Sentinels(access)
    try:
        yield sentinels
    finally:
        await sentinels.aclose()


def in_words(failures: Mapping[Node, Exception]) -> str:
    """Returns the failures of Sentinels as text. The driver's errors name the address in most cases."""
    return "; ".join(
        str(error) if str(node) in str(error) else f"{node}: {error}" for node, error in failures.items()
    )


async def _first_and_soon(asking: Collection["asyncio.Task[Answer | Exception]"]) -> None:
    """Waits for all tasks, but not much longer than for the first answer."""
    loop = asyncio.get_running_loop()
    end_s, waiting = loop.time() + FIRST_ANSWER_S, set(asking)
    while waiting and (left_s := end_s - loop.time()) > 0:
        done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if any(isinstance(_result(task), Answer) for task in done):
            end_s = min(end_s, loop.time() + OTHER_ANSWERS_S)


def _result(task: "asyncio.Task[Answer | Exception]") -> Answer | Exception:
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
