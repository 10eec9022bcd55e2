"""The slots of a Redis Cluster: each key belongs to one of them, and each slot to one master.

A node may name an address that only it can interpret: an empty host is the host that the caller used, and `?`
stands for a host name that is not known yet.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import AskError, InvalidResponse, MovedError

from ratelimitd.store_url import MAX_PORT, Node

SLOTS = 16384

UNKNOWN = "?"
"""The host of a node whose host name is not known yet."""


class SlotRange(NamedTuple):
    """Slots that a master owns, from the first to the last."""

    first: int
    last: int
    owner: Node


class SlotMap(NamedTuple):
    """The owners of the slots, as one node knows them.

    Args:
        ranges: the slots that have an owner, in ascending order.
        replicas: the nodes that own none.
    """

    ranges: tuple[SlotRange, ...] = ()
    replicas: tuple[Node, ...] = ()

    @property
    def masters(self) -> tuple[Node, ...]:
        """The nodes that own slots."""
        return tuple(dict.fromkeys(one.owner for one in self.ranges))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes."""
        return self.masters + self.replicas

    def owner(self, slot: int) -> Node | None:
        """Returns the master that owns a slot; None if no node owns it."""
        return next((one.owner for one in self.ranges if one.first <= slot <= one.last), None)


def slot_of(key: str) -> int:
    """Returns the slot of a key, which its hash tag decides if it has one."""
    return key_slot(key.encode())


def parse_slots(reply: Any, asked: Node) -> SlotMap:
    """Returns the map in a reply to CLUSTER SLOTS of the node `asked`. Raises InvalidResponse."""
    try:
        ranges = sorted(_range(first, last, _node(master, asked)) for first, last, master, *_ in reply)
        others = {_node(replica, asked) for _, _, _, *replicas in reply for replica in replicas}
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise InvalidResponse(
            f"{asked} sent a reply to CLUSTER SLOTS that cannot be read: {reply!r:.100}"
        ) from error
    return SlotMap(tuple(ranges), tuple(sorted(others - {one.owner for one in ranges})))


def named_node(error: AskError, sender: Node, known: Iterable[Node]) -> Node | None:
    """Returns the node that a MOVED or ASK names; None if it is unknown.

    A node without a host name is the only known one with that port. A slot may move to a node that owns none
    yet, so that it is not known. It is then taken to have the host of the sender.

    Args:
        error: the redirection.
        sender: the node that sent it.
        known: the nodes of the cluster that are known.
    """
    if error.host != UNKNOWN:
        return Node(error.host or sender.host, error.port)
    found = {node for node in known if node.port == error.port}
    if len(found) == 1:
        return found.pop()
    # In redis-py a MovedError is an AskError. The owner of a slot is soon known with its IP address.
    return None if found or isinstance(error, MovedError) else Node(sender.host, error.port)


def _range(first: int, last: int, owner: Node) -> SlotRange:
    if not 0 <= first <= last < SLOTS:
        raise ValueError
    return SlotRange(first, last, owner)


def _node(entry: Sequence[Any], asked: Node) -> Node:
    """Returns the address in a node's part of the reply. Raises ValueError and others if it is malformed."""
    host = _text(entry[0])
    if host == UNKNOWN:
        more = [_text(one) for one in entry[3]] if len(entry) > 3 else []  # noqa: PLR2004 - host, port, id, more
        host = dict(zip(more[::2], more[1::2], strict=True)).get("ip", "")
    port = int(entry[1])
    if not 0 < port <= MAX_PORT:
        raise ValueError
    return Node(host or asked.host, port)


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode()
