"""Tests of reading and deleting buckets for operators, on a real store."""

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.model import MICRO, Limit
from ratelimitd.errors import StoreError
from ratelimitd.store.buckets import Buckets
from ratelimitd.store.client import open_client
from tests.core.take_requests import take_request
from tests.script_limiter import ScriptLimiter


async def test_buckets_are_read_to_the_microtoken(store: Redis) -> None:
    limiter = ScriptLimiter(store)
    await limiter.take(take_request({"rate:user:a": Limit(3, 0.001)}, 1_234_567))
    stored = await Buckets(store, KeyLayout("rate")).read(["rate:user:a", "rate:user:b"])
    assert stored.buckets.keys() == {"rate:user:a"}
    bucket = stored.buckets["rate:user:a"]
    assert bucket.tokens == 3 * MICRO - 1_234_567
    assert 0 <= stored.now_us - bucket.last < 60 * MICRO


@pytest.mark.parametrize(
    "nonsense",
    [
        {"tokens": "many", "last": "1"},
        {"tokens": "nan", "last": "1"},
        {"tokens": "-1", "last": "1"},
        {"tokens": "1"},
        {"last": "1"},
        {"tokens": "1", "last": "inf"},
        {"tokens": "1", "last": "1e25"},
        {"tokens": "inf", "last": "1"},
        {"tokens": "1e308", "last": "1"},
        {"tokens": "9" * 400, "last": "1"},
    ],
)
async def test_a_hash_that_is_not_a_bucket_is_reported(store: Redis, nonsense: dict[Any, Any]) -> None:
    """take.lua treats such a key as a full bucket."""
    await store.hset("rate:user:a", mapping=nonsense)
    stored = await Buckets(store, KeyLayout("rate")).read(["rate:user:a"])
    assert (stored.buckets, stored.not_buckets) == ({}, {"rate:user:a": "hash"})


async def test_keys_of_other_types_are_reported_beside_buckets(store: Redis) -> None:
    await store.set("rate:user:a", "x")
    await store.xadd("rate:user:a:api:1", {"a": "b"})
    await store.hset("rate:user:a:api:2", mapping={"tokens": "1", "last": "2"})
    buckets = Buckets(store, KeyLayout("rate"))
    keys = await buckets.keys_of("a")
    stored = await buckets.read([*keys, "rate:user:none"])
    assert stored.buckets == {"rate:user:a:api:2": Bucket(MICRO, 2)}
    assert stored.not_buckets == {"rate:user:a": "string", "rate:user:a:api:1": "stream"}
    await buckets.delete(keys)
    assert await store.keys("*") == []


async def test_an_error_other_than_a_wrong_type_is_raised(store: Redis) -> None:
    await store.acl_setuser("default", enabled=True, nopass=True, commands=["+@all", "-hmget"])
    try:
        with pytest.raises(StoreError, match="hmget"):
            await Buckets(store, KeyLayout("rate")).read(["rate:user:a"])
    finally:
        await store.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"])


async def test_the_keys_of_an_identity_include_no_other_identitys(store: Redis) -> None:
    mine = ["rate:shadow:user:al", "rate:shadow:user:al:api:*", "rate:user:al", "rate:user:al:api:/a/*"]
    others = ["rate:user:alice", "rate:user:alice:api:/a/*", "rate:global", "other:user:al"]
    for key in [*mine, *others]:
        await store.hset(key, mapping={"tokens": "1", "last": "1"})
    buckets = Buckets(store, KeyLayout("rate"))
    assert await buckets.keys_of("al") == mine
    await buckets.delete(mine)
    assert await buckets.keys_of("al") == []
    assert await store.exists(*others) == len(others)
    await buckets.delete([])


async def test_a_search_takes_more_than_one_step(store: Redis) -> None:
    async with store.pipeline(transaction=False) as pipeline:
        for number in range(3000):
            pipeline.hset(f"rate:user:u{number}:api:/a", mapping={"tokens": "1", "last": "1"})
        await pipeline.execute()
    assert await Buckets(store, KeyLayout("rate")).keys_of("u1234") == ["rate:user:u1234:api:/a"]


async def test_tokens_and_time_of_a_bucket_are_read_unchanged(store: Redis) -> None:
    await store.hset("rate:user:a", mapping={"tokens": "1.500000", "last": "1800000000000000"})
    stored = await Buckets(store, KeyLayout("rate")).read(["rate:user:a"])
    assert stored.buckets == {"rate:user:a": Bucket(1_500_000, 1_800_000_000_000_000)}


async def test_an_unreachable_store_is_a_store_error(tmp_path: Path) -> None:
    async with open_client(f"unix://{tmp_path}/none.sock") as client:
        buckets = Buckets(client, KeyLayout("rate"))
        for call in (buckets.read(["a"]), buckets.keys_of("a"), buckets.delete(["a"])):
            with pytest.raises(StoreError):
                await call
