"""Runs a Redis Cluster of redis-servers, for tests that change it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from redis.asyncio import Redis

from ratelimitd.process.loopback import free_port
from ratelimitd.store.cluster_slots import SLOTS, slot_of
from tests.eventually import eventually
from tests.redis_server import redis_server

_EPOCH = "cluster_current_epoch:"
_NODE_TIMEOUT = "cluster-node-timeout"


def cluster_mode(bus_port: int | None = None) -> tuple[str, ...]:
    """Returns the options of a node.

    By default the port of the cluster's bus is the node's plus 10000, which may be taken or too high.
    """
    return "--cluster-enabled", "yes", "--cluster-port", str(bus_port or free_port())


@dataclass
class Member:
    """A node: its address, a client that may do everything on it, and what ends it."""

    address: str
    client: Redis
    stack: AsyncExitStack
    bus_port: int
    id: str = ""

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.address.rpartition(":")[2])

    async def run(self, *command: object) -> object:
        """Returns the reply to a command, with text in place of bytes."""
        reply = await self.client.execute_command(*command)  # type: ignore[no-untyped-call] # it is untyped
        return reply.decode() if isinstance(reply, bytes) else reply

    async def stop(self) -> None:
        """Ends the server."""
        await self.stack.aclose()


@dataclass
class RedisCluster:
    """A cluster. `url` names its first node. `spare` is a node that knows no other one yet."""

    options: Sequence[str]
    stack: AsyncExitStack
    members: list[Member] = field(default_factory=list)
    spare: Member | None = None
    started: int = 0

    @property
    def url(self) -> str:
        """The URL of the cluster, with its first node alone."""
        return f"redis+cluster://{self.members[0].address}"

    async def start(self) -> Member:
        """Starts a node that knows no other node yet. A master serves two seconds later."""
        stack = await self.stack.enter_async_context(AsyncExitStack())
        bus_port = free_port()
        options = (*cluster_mode(bus_port), *self.options)
        address, client = await stack.enter_async_context(redis_server(*options))
        member = Member(address, client, stack, bus_port)
        member.id = str(await member.run("CLUSTER", "MYID"))
        self.started += 1
        await member.run("CLUSTER", "SET-CONFIG-EPOCH", self.started)
        return member

    async def join(self) -> Member:
        """Makes the spare node part of the cluster. It returns once all nodes know all, and it serves."""
        assert self.spare is not None
        member, self.spare = self.spare, None
        timeout_ms = await member.client.config_get(_NODE_TIMEOUT)
        await member.run("CONFIG", "SET", _NODE_TIMEOUT, 500)  # for so long it waits before it serves
        for other in self.members:
            await other.run("CLUSTER", "MEET", *member.address.split(":"), member.bus_port)
        self.members.append(member)

        async def known() -> bool:
            lists = [str(await one.run("CLUSTER", "NODES")) for one in self.members]
            return all(
                text.count(" connected") == len(self.members) and "handshake" not in text for text in lists
            )

        await eventually(known, "all nodes know each other")
        await self.agreed()
        await member.run("CONFIG", "SET", _NODE_TIMEOUT, timeout_ms[_NODE_TIMEOUT])
        return member

    async def agreed(self, owner: Member | None = None, slot: int = 0) -> None:
        """Returns once every node serves and knows the owners of all slots, that of `slot` if given."""

        async def all_agree() -> bool:
            infos = [str(await member.run("CLUSTER", "INFO")) for member in self.members]
            epochs = {line for info in infos for line in info.split() if line.startswith(_EPOCH)}
            if len(epochs) != 1 or not all("cluster_state:ok" in info for info in infos):
                return False
            for member in self.members:
                ranges = await member.client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call] # it is untyped
                if sum(last + 1 - first for first, last, *_ in ranges) != SLOTS:
                    return False
                if owner is not None and not any(
                    first <= slot <= last and master[1] == owner.port for first, last, master, *_ in ranges
                ):
                    return False
            return True

        await eventually(all_agree, "the nodes agree on the slots")

    async def owner(self, key: str) -> Member:
        """Returns the master that owns a key, as the first node knows it."""
        slot = slot_of(key)
        ranges = await self.members[0].client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call] # it is untyped
        port = next(master[1] for first, last, master, *_ in ranges if first <= slot <= last)
        return next(member for member in self.members if member.port == port)

    async def move(self, slot: int, source: Member, target: Member) -> None:
        """Moves a slot. It returns once all nodes know the new owner."""
        await self.begin_move(slot, source, target)
        await self.end_move(slot, source, target)
        await self.agreed(target, slot)

    async def begin_move(self, slot: int, source: Member, target: Member) -> None:
        """Begins to move a slot: from now on, keys that the source does not have are answered with ASK."""
        await target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        await source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    async def move_keys(self, source: Member, target: Member, *keys: str) -> None:
        """Moves keys of a slot that moves."""
        host, port = target.address.split(":")
        await source.run("MIGRATE", host, port, "", 0, 5000, "REPLACE", "KEYS", *keys)

    async def end_move(self, slot: int, source: Member, target: Member) -> None:
        """Moves all keys that are left, and gives the slot to the target."""
        while keys := await source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):  # type: ignore[no-untyped-call] # it is untyped
            await self.move_keys(source, target, *(key.decode() for key in keys))
        await target.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        for member in self.members:
            if member is not target:
                await member.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)


@asynccontextmanager
async def redis_cluster(
    masters: int, *options: str, with_spare: bool = False, first_slot: int = 0
) -> AsyncIterator[RedisCluster]:
    """Yields a cluster of masters that share all slots. Those of the first one begin with `first_slot`."""
    async with AsyncExitStack() as stack:
        cluster = RedisCluster(options, stack)
        if with_spare:
            cluster.spare = await cluster.start()
        for number in range(masters):
            member = await cluster.start()
            cluster.members.append(member)
            begin, end = first_slot + SLOTS * number // masters, first_slot + SLOTS * (number + 1) // masters
            await member.run("CLUSTER", "ADDSLOTS", *(slot % SLOTS for slot in range(begin, end)))
            if number:
                await cluster.members[0].run("CLUSTER", "MEET", *member.address.split(":"), member.bus_port)
        await cluster.agreed()
        yield cluster
