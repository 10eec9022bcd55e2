"""Finds the nodes of a Redis Cluster, and the slots that each master owns.

Any node knows them. A node that was cut off may know an old state, so each search begins with another node.
A node that hangs costs little time, because the next one is asked soon.
"""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import suppress

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, InvalidResponse, MovedError
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.store.access import StoreAccess, make_connection
from ratelimitd.store.cluster_slots import SlotMap, named_node, parse_slots, slot_of
from ratelimitd.store.reply_errors import UnsupportedStoreError
from ratelimitd.store_url import Node

NEXT_AFTER_S = 0.1
"""How long a node may take to answer before the next one is asked as well."""

ASK_S = 2.0
"""How long a search may take."""


class NoNodeAnswersError(NotConnectedError):
    """A search found no node that answers, so another one would not help."""


class Cluster:
    """The nodes of a cluster and their slots.

    Args:
        access: the way to the store. The nodes of its URL are asked when no other node answers.
    """

    def __init__(self, access: StoreAccess) -> None:
        self.access = access
        self._searches = 0
        self._moved: tuple[int, Node] | None = None
        self._search: asyncio.Task[SlotMap] | None = None
        self.slots = SlotMap()
        """What the last node that was asked knew."""

    async def refresh(self) -> SlotMap:
        """Searches for the slots. Concurrent calls share a search. Raises RedisError if no node answers."""
        if self._search is None or self._search.done():
            self._search = asyncio.create_task(self._ask_nodes())
        self.slots = await asyncio.shield(self._search)
        return self.slots

    async def owner_of(self, key: str) -> Node:
        """Returns the master that owns a key now. Raises RedisError."""
        slot = slot_of(key)
        moved, self._moved = self._moved, None
        if moved is not None and moved[0] == slot:
            return moved[1]
        owner = (await self.refresh()).owner(slot)
        if owner is None:
            raise NotConnectedError(f"no node of the cluster owns the slot {slot} of the key {key}")
        return owner

    async def names_other_owner(self, key: str, lost: Collection[Node | None]) -> bool:
        """Returns whether a node knows an owner of a key that is none of these; `owner_of` returns it once.

        After a failover some nodes know the new master, and others still name the lost one. So each search
        begins with another node. It takes at most ASK_S. Raises RedisError if no node answers.
        """
        slot = slot_of(key)
        with suppress(TimeoutError):
            async with asyncio.timeout(ASK_S):
                for _ in self.slots.nodes:
                    owner = (await self.refresh()).owner(slot)
                    if owner is not None and owner not in lost:
                        self._moved = slot, owner
                        return True
        return False

    def named(self, error: AskError) -> Node | None:
        """Returns the node that a MOVED or ASK of a slot's owner names; None if it is unknown."""
        owner = self.slots.owner(error.slot_id)
        return None if owner is None else named_node(error, owner, self.slots.nodes)

    def moved(self, error: MovedError) -> None:
        """Notes the owner of a slot that a MOVED names. `owner_of` returns it once without a search."""
        node = self.named(error)
        if node is not None:
            self._moved = error.slot_id, node

    def connection(self, node: Node) -> AbstractConnection:
        """Returns a connection to a node that is not open yet."""
        return make_connection(self.access.arguments() | node._asdict())

    async def aclose(self) -> None:
        """Ends a search."""
        if self._search is not None:
            self._search.cancel()
            await asyncio.wait((self._search,))

    async def _ask_nodes(self) -> SlotMap:
        """Asks the nodes, each NEXT_AFTER_S after the one before, and returns the first answer."""
        failures: dict[Node, str] = {}
        asking: dict[asyncio.Task[SlotMap], Node] = {}
        nodes = self._nodes()
        try:
            async with asyncio.timeout(ASK_S):
                while (node := next(nodes, None)) or asking:
                    if node:
                        asking[asyncio.create_task(self._ask(node))] = node
                    done, _ = await asyncio.wait(
                        asking,
                        timeout=NEXT_AFTER_S if node else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    for task in done:
                        asked = asking.pop(task)
                        error = task.exception()
                        if error is None:
                            return task.result()
                        if isinstance(error, UnsupportedStoreError):
                            raise error
                        failures[asked] = str(error)
        except TimeoutError:
            failures |= dict.fromkeys(asking.values(), "no answer in time")
        finally:
            for task in asking:
                task.cancel()
            if asking:
                await asyncio.wait(asking)
        reasons = "; ".join(
            text if str(node) in text else f"{node}: {text}" for node, text in failures.items()
        )
        raise NoNodeAnswersError(f"no node of the cluster answers: {reasons}")

    def _nodes(self) -> Iterator[Node]:
        """Returns the known nodes, each time beginning with another one, and then the nodes of the URL."""
        known = self.slots.nodes
        self._searches += 1
        at = self._searches % len(known) if known else 0
        return iter(dict.fromkeys([*known[at:], *known[:at], *self.access.url.nodes]))

    async def _ask(self, node: Node) -> SlotMap:
        connection = self.connection(node)
        try:
            await connection.connect()  # type: ignore[no-untyped-call] # it is untyped
            await connection.send_command("CLUSTER", "SLOTS", check_health=False)
            found = parse_slots(await connection.read_response(), node)
        except OSError as error:
            raise NotConnectedError(str(error)) from error
        finally:
            await connection.disconnect(nowait=True)
        if not found.ranges:
            raise InvalidResponse(f"the node {node} knows no slots; is it part of the cluster?")
        return found
