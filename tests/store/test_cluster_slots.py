"""Tests of reading the slots of a cluster."""

from typing import Any

import pytest
from redis.exceptions import AskError, InvalidResponse, MovedError

from ratelimitd.store.cluster_slots import SlotMap, SlotRange, named_node, parse_slots, slot_of
from ratelimitd.store_url import Node

ASKED = Node("redis-0", 7000)


def test_the_hash_tag_decides_the_slot() -> None:
    assert slot_of("rate:user:{alice}") == slot_of("rate:user:{alice}:api:/{id}") == slot_of("alice")
    assert slot_of("foo") == 12182


def test_ranges_masters_and_replicas_are_read() -> None:
    reply = [
        [8192, 16383, [b"10.0.0.2", 7000, b"id2", []], [b"10.0.0.3", 7000, b"id3", []]],
        [0, 8191, [b"10.0.0.1", 7000, b"id1", []]],
    ]
    first, second = Node("10.0.0.1", 7000), Node("10.0.0.2", 7000)
    found = parse_slots(reply, ASKED)
    assert found == SlotMap(
        (SlotRange(0, 8191, first), SlotRange(8192, 16383, second)), (Node("10.0.0.3", 7000),)
    )
    assert found.masters == (first, second)
    assert (found.owner(8191), found.owner(8192)) == (first, second)
    assert SlotMap().owner(0) is None


@pytest.mark.parametrize(
    ("entry", "node"),
    [
        ([b"", 7001], Node("redis-0", 7001)),
        ([None, 7001, b"id", []], Node("redis-0", 7001)),
        ([b"?", 7001, b"id", [b"ip", b"10.0.0.1"]], Node("10.0.0.1", 7001)),
        ([b"?", 7001, b"id", []], Node("redis-0", 7001)),
        ([b"host.example", 7001, b"id", [b"ip", b"10.0.0.1"]], Node("host.example", 7001)),
        ([b"fd00::1", 7001, b"id"], Node("fd00::1", 7001)),
    ],
)
def test_a_node_may_be_named_in_many_ways(entry: list[Any], node: Node) -> None:
    assert parse_slots([[0, 1, entry]], ASKED).masters == (node,)


@pytest.mark.parametrize(
    "reply",
    [None, 1, [1], [[0]], [[0, 1, None]], [[2, 1, [b"h", 1]]], [[0, 16384, [b"h", 1]]], [[0, 1, [b"h", 0]]]],
)
def test_other_replies_are_refused(reply: Any) -> None:
    with pytest.raises(InvalidResponse, match=r"^redis-0:7000 sent a reply to CLUSTER SLOTS"):
        parse_slots(reply, ASKED)


KNOWN = (Node("10.0.0.1", 6380), Node("10.0.0.2", 6381), Node("10.0.0.3", 6382), Node("10.0.0.4", 6382))


@pytest.mark.parametrize("kind", [MovedError, AskError])
@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("3999 127.0.0.1:6381", Node("127.0.0.1", 6381)),
        ("3999 fd00::1:6381", Node("fd00::1", 6381)),
        ("3999 :6381", Node("redis-0", 6381)),
        ("3999 ?:6381", Node("10.0.0.2", 6381)),
        ("3999 ?:6382", None),
    ],
)
def test_a_redirection_names_a_node(kind: type[AskError], text: str, node: Node | None) -> None:
    assert named_node(kind(text), ASKED, KNOWN) == node


def test_a_slot_moves_to_an_unknown_node_at_the_host_of_the_sender() -> None:
    """A node without slots is not in the reply to CLUSTER SLOTS. The owner of a slot soon is."""
    assert named_node(AskError("3999 ?:7009"), ASKED, KNOWN) == Node("redis-0", 7009)
    assert named_node(MovedError("3999 ?:7009"), ASKED, KNOWN) is None
