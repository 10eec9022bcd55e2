"""The entries of replicas on a real store: which are live, and what shadows would have denied."""

import json
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimitd.core.model import MICRO
from ratelimitd.errors import StoreError
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.store.client import open_client
from tests.example_limits import KEY
from tests.replicas import replica

HASH = f"{{{KEY}}}:replicas"
SHADOW = f"{{{KEY}}}:shadow:7"
NOW = 1_795_000_000 * MICRO

ONE = replica("one", number=7, digest="0123456789ab", started_us=NOW - 9 * MICRO, seen_us=NOW)
TWO = replica(
    "two", number=7, transport="fast", refused="user_rate: must be a number", started_us=NOW, seen_us=NOW
)
ENTRY = {
    "id": "one",
    "version": "0",
    "transport": "grpcio",
    "number": 7,
    "revision": "0123456789ab",
    "refused": None,
    "started_us": NOW - 9 * MICRO,
    "seen_us": NOW,
}
"""The entry of ONE in the store. Versions before 0.5 write and require these fields, and ignore others."""


async def test_a_published_entry_is_read_back_and_is_documented_json(store: Redis) -> None:
    replicas = Replicas(store, KEY)
    await replicas.publish(TWO)
    await replicas.publish(ONE)
    assert await replicas.listed(NOW) == [ONE, TWO]
    assert json.loads(await store.hget(HASH, "one") or b"") == ENTRY | {
        "unreadable_addresses": 0,
        "top_users": "off",
    }
    newer = ONE.model_copy(update={"number": 8, "seen_us": NOW + MICRO})
    await replicas.publish(newer)
    assert await replicas.listed(NOW + MICRO) == [newer, TWO]


async def test_an_entry_of_an_earlier_version_is_read(store: Redis) -> None:
    await store.hset(HASH, "one", json.dumps(ENTRY))
    assert await Replicas(store, KEY).listed(NOW) == [ONE]


def test_a_replica_is_silent_5_seconds_after_its_entry() -> None:
    """A future time also counts, because a failover can leave it if the clocks differ."""
    for sign in (1, -1):
        assert not ONE.is_silent(NOW + sign * 5 * MICRO)
        assert ONE.is_silent(NOW + sign * (5 * MICRO + 1))


async def test_a_silent_replica_is_listed_for_a_minute(store: Redis) -> None:
    replicas = Replicas(store, KEY)
    await replicas.publish(ONE)
    for sign in (1, -1):
        assert await replicas.listed(NOW + sign * 60 * MICRO) == [ONE]
        assert await replicas.listed(NOW + sign * (60 * MICRO + 1)) == []


async def test_a_replica_that_leaves_is_gone_at_once(store: Redis) -> None:
    replicas = Replicas(store, KEY)
    await replicas.publish(ONE)
    await replicas.publish(TWO)
    await replicas.leave("one")
    await replicas.leave("never came")
    assert await replicas.listed(NOW) == [TWO]


async def test_the_first_entry_of_a_replica_removes_stale_ones(store: Redis) -> None:
    await Replicas(store, KEY).publish(ONE)
    await Replicas(store, KEY).publish(TWO.model_copy(update={"seen_us": NOW + 1}))
    await Replicas(store, KEY).publish(replica("three", seen_us=NOW + 60 * MICRO + 1))
    assert set(await store.hkeys(HASH)) == {b"two", b"three"}


async def test_the_hash_expires_a_minute_after_the_last_entry(store: Redis) -> None:
    replicas = Replicas(store, KEY)
    await replicas.publish(ONE)
    assert 50 < await store.ttl(HASH) <= 60
    await store.expire(HASH, 10)
    await replicas.publish(ONE)
    assert 50 < await store.ttl(HASH) <= 60


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"null",
        b"[]",
        b"{}",
        b'"one"',
        b"1e999",
        json.dumps(ENTRY | {"seen_us": "now"}).encode(),
        json.dumps(ENTRY | {"seen_us": 1.5}).encode(),
        json.dumps(ENTRY | {"number": None}).encode(),
        json.dumps(ENTRY | {"number": "7"}).encode(),
        json.dumps(ENTRY | {"refused": ["x"]}).encode(),
    ],
)
async def test_garbage_among_the_entries_is_skipped(store: Redis, garbage: bytes) -> None:
    await store.hset(HASH, "garbage", garbage)
    replicas = Replicas(store, KEY)
    await replicas.publish(ONE)
    assert await replicas.listed(NOW) == [ONE]


async def test_unknown_fields_of_newer_versions_are_ignored(store: Redis) -> None:
    await store.hset(HASH, "one", json.dumps(ENTRY | {"region": "eu"}))
    assert await Replicas(store, KEY).listed(NOW) == [ONE]


async def test_shadow_counts_of_replicas_add_up(store: Redis, store_url: str) -> None:
    """They are kept for a week after the last addition."""
    async with open_client(store_url) as other:
        one, two = Replicas(store, KEY), Replicas(other, KEY)
        assert await one.shadow(7) == {}
        await one.add_shadow(7, {"tier:user": 2, "routes[0] é": 1})
        await store.expire(SHADOW, 10)
        await two.add_shadow(7, {"tier:user": 40})
        await two.add_shadow(8, {"tier:user": 1})
        assert await one.shadow(7) == await two.shadow(7) == {"tier:user": 42, "routes[0] é": 1}
        assert await one.shadow(8) == {"tier:user": 1}
    assert 604_790 < await store.ttl(SHADOW) <= 604_800


async def test_without_shadow_counts_there_is_no_round_trip(tmp_path: Path) -> None:
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        await Replicas(client, KEY).add_shadow(7, {})


async def test_garbage_among_the_shadow_counts_is_skipped(store: Redis) -> None:
    await store.hset(SHADOW, mapping={b"by hand": b"many", b"\xff": b"3", b"huge": b"9" * 30, b"ok": b"-1"})
    replicas = Replicas(store, KEY)
    await replicas.add_shadow(7, {"by hand": 1, "ok": 3})
    assert await replicas.shadow(7) == {"huge": int("9" * 30), "ok": 2}


async def test_without_a_store_every_call_raises_store_error(tmp_path: Path) -> None:
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        replicas = Replicas(client, KEY)
        for call in (
            replicas.publish(ONE),
            replicas.leave("one"),
            replicas.listed(NOW),
            replicas.add_shadow(7, {"a": 1}),
            replicas.shadow(7),
        ):
            with pytest.raises(StoreError, match="the store failed"):
                await call
