"""The reasons why a real Redis refuses writes, found without writing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ratelimitd.store.client import open_client
from ratelimitd.store.refused_writes import refused_writes
from tests.eventually import eventually
from tests.redis_server import redis_server


@pytest.fixture
async def own_store(tmp_path: Path) -> AsyncIterator[Redis]:
    """Runs a store that the test may break, and yields a client of it."""
    async with redis_server("--save", "3600 1000", "--dir", str(tmp_path)) as (_, client):
        yield client
        await client.config_set("save", "")  # without it, Redis does not end while it cannot save


async def refuses(client: Redis, code: str) -> None:
    """Asserts that the store refuses a write, and that the reason begins with this code."""
    with pytest.raises(ResponseError):
        await client.set("key", "value")
    reason = await refused_writes(client)
    assert reason is not None
    assert reason.startswith(f"{code} ")


async def test_a_healthy_store_takes_writes(own_store: Redis) -> None:
    assert await refused_writes(own_store) is None
    assert await own_store.dbsize() == 0


async def test_too_few_replicas(own_store: Redis) -> None:
    await own_store.config_set("min-replicas-to-write", 1)
    await refuses(own_store, "NOREPLICAS")


async def test_memory_is_used_up(own_store: Redis) -> None:
    await own_store.config_set("maxmemory", "100kb")
    await refuses(own_store, "OOM")


async def test_a_read_only_replica(own_store: Redis) -> None:
    await own_store.replicaof("127.0.0.1", "1")
    await refuses(own_store, "READONLY")


async def test_a_snapshot_cannot_be_written_to_disk(own_store: Redis, tmp_path: Path) -> None:
    (tmp_path / "dump.rdb").mkdir()
    await own_store.bgsave()

    async def failed() -> bool:
        return bool((await own_store.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await eventually(failed, "the snapshot failed")
    await refuses(own_store, "MISCONF")


async def test_a_user_who_may_not_ask_gets_no_reason(own_store: Redis) -> None:
    await own_store.config_set("maxmemory", "100kb")
    port = own_store.connection_pool.connection_kwargs["port"]
    await own_store.acl_setuser("plain", enabled=True, nopass=True, keys=["*"], commands=["+ping"])
    async with open_client(f"redis://plain:x@127.0.0.1:{port}/0") as plain:
        assert await refused_writes(plain) is None
