"""Runs a master, its replicas, and three Sentinels that notice failures quickly."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from tests.eventually import eventually
from tests.redis_server import redis_server

SERVICE = "main"

DOWN_AFTER_MS = 300
"""How long a server does not answer before the first Sentinel calls it down."""

QUICK = ("info-period", "100", "publish-period", "100", "ask-period", "100", "ping-period", "50")
"""Milliseconds between what Sentinels send: they find each other soon."""

STEADY = ("info-period", "500", "publish-period", "2000", "ping-period", "1000")
"""Periods for a failover. With short ones, Sentinels find what they know about the replica too old, and a
Sentinel that has not heard of the failover undoes it."""


@dataclass
class Server:
    """A Redis, or a Sentinel.

    Args:
        address: HOST:PORT.
        client: a client that may do everything.
        pid: the number of its process.
    """

    address: str
    client: Redis
    pid: int

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.address.rpartition(":")[2])

    def signal(self, number: int) -> None:
        """Sends a signal to the process."""
        os.kill(self.pid, number)


@dataclass
class Sentineled:
    """A store with Sentinels."""

    servers: list[Server] = field(default_factory=list)
    sentinels: list[Server] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The URL of the store."""
        return f"redis+sentinel://{','.join(one.address for one in self.sentinels)}/{SERVICE}"

    async def master(self) -> Server:
        """Returns the master that the first Sentinel names."""
        port = await _master_port(self.sentinels[0])
        return next(one for one in self.servers if one.port == port)

    async def fail_over(self) -> Server:
        """Makes a replica the master by a command, and returns it once all Sentinels name it."""
        old = await self.master()

        async def begun() -> bool:
            with suppress(ResponseError):  # the last failover is still in progress
                return bool(await self.sentinels[0].client.sentinel_failover(SERVICE))
            return False

        await eventually(begun, "a failover begins")
        return await self.master_instead_of(old)

    async def ready(self) -> None:
        """Waits until all Sentinels know a replica that follows the master, so it can take its place."""

        async def known() -> bool:
            return all([await _replicas_in_sync(one) for one in self.sentinels])

        await eventually(known, "all Sentinels know a replica in sync")

    async def master_instead_of(self, old: Server) -> Server:
        """Returns the new master once all Sentinels name it."""

        async def named() -> bool:
            ports = {await _master_port(one) for one in self.sentinels}
            return len(ports) == 1 and ports != {old.port}

        await eventually(named, "all Sentinels name another master")
        return await self.master()


@asynccontextmanager
async def sentineled(*options: str, replicas: int = 1, sentinels: int = 3) -> AsyncIterator[Sentineled]:
    """Yields a store whose Sentinels know each other and its replicas.

    Args:
        options: options of each Redis.
        replicas: how many there are beside the master.
        sentinels: how many there are.
    """
    store = Sentineled()
    async with AsyncExitStack() as stack:
        for _ in range(1 + replicas):
            store.servers.append(await _started(stack, "--repl-diskless-sync-delay", "0", *options))
        master, *others = store.servers
        for replica in others:
            await replica.client.replicaof("127.0.0.1", str(master.port))
        for number in range(sentinels):
            sentinel = await _started(stack, sentinel=True)
            await _watch(sentinel, master.port, DOWN_AFTER_MS + number * 1000)
            store.sentinels.append(sentinel)
        await eventually(lambda: _complete(store), "the Sentinels know each other and the replicas")
        for sentinel in store.sentinels:
            await _debug(sentinel, *STEADY)
        try:
            yield store
        finally:
            for server in store.servers + store.sentinels:
                with suppress(ProcessLookupError):  # one that was stopped by the test cannot be terminated
                    server.signal(signal.SIGCONT)


async def _watch(sentinel: Server, port: int, down_after_ms: int) -> None:
    """Makes a Sentinel watch the master at a port.

    With a quorum of 1 the most impatient Sentinel asks the others to vote for it. Sentinels that notice a
    failure together vote for themselves, and try again only after twice the timeout.
    """
    await sentinel.client.sentinel_monitor(SERVICE, "127.0.0.1", port, 1)
    await sentinel.client.sentinel_set(SERVICE, "down-after-milliseconds", down_after_ms)
    await sentinel.client.sentinel_set(SERVICE, "failover-timeout", 2000)
    await _debug(sentinel, *QUICK)


async def _master_port(sentinel: Server) -> int:
    address: Any = await sentinel.client.sentinel_get_master_addr_by_name(SERVICE)
    return int(address[1])


async def _debug(sentinel: Server, *periods: str) -> None:
    await sentinel.client.execute_command("SENTINEL", "DEBUG", *periods)  # type: ignore[no-untyped-call] # it is untyped


async def _started(stack: AsyncExitStack, *options: str, sentinel: bool = False) -> Server:
    address, client = await stack.enter_async_context(redis_server(*options, sentinel=sentinel))
    return Server(address, client, int((await client.info("server"))["process_id"]))


async def _complete(store: Sentineled) -> bool:
    for sentinel in store.sentinels:
        state: Any = await sentinel.client.sentinel_master(SERVICE)
        if state["num-other-sentinels"] < len(store.sentinels) - 1:
            return False
        if await _replicas_in_sync(sentinel) != len(store.servers) - 1:
            return False
    return True


async def _replicas_in_sync(sentinel: Server) -> int:
    """Returns how many replicas follow the master that a Sentinel names."""
    port = str(await _master_port(sentinel))
    replicas: Any = await sentinel.client.sentinel_slaves(SERVICE)
    return sum((one["master-link-status"], str(one["master-port"])) == ("ok", port) for one in replicas)


def host_and_port(address: str) -> tuple[str, int]:
    """Returns the parts of HOST:PORT."""
    host, _, port = address.rpartition(":")
    return host, int(port)
