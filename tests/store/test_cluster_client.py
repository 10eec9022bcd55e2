"""Tests of the client for operators' data in a Redis Cluster while it changes, on real nodes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotConnectedError

from ratelimitd.core.bucket import Bucket
from ratelimitd.core.model import MICRO
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.buckets import Buckets, layout_of
from ratelimitd.store.client import open_client
from ratelimitd.store.cluster import Cluster, NoNodeAnswersError
from ratelimitd.store.cluster_slots import SLOTS, SlotMap, slot_of
from ratelimitd.store.script import Script
from tests.redis_cluster import RedisCluster, redis_cluster

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["unknown-endpoint", "hostname"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[RedisCluster]:
    """Runs a cluster of two masters that have no host name: redirections have no host, or `?`."""
    async with redis_cluster(2, "--cluster-preferred-endpoint-type", request.param) as running:
        yield running


async def use(client: Redis, key: str) -> None:
    """Writes and reads two keys of a slot, by commands, in a pipeline, and in a script."""
    first, second = f"{{{key}}}:1", f"{{{key}}}:2"
    await client.set(first, "a")
    pipeline = client.pipeline(transaction=False)
    pipeline.set(second, "b", nx=True)
    pipeline.get(second)
    pipeline.hgetall(first)
    *replies, error = await pipeline.execute(raise_on_error=False)
    assert replies[1] == b"b"
    assert str(error).startswith("WRONGTYPE")
    assert await client.get(first) == b"a"


async def test_commands_and_pipelines_follow_a_slot(cluster: RedisCluster) -> None:
    key = "followed"
    source = await cluster.owner(key)
    target = next(member for member in cluster.members if member is not source)
    async with open_client(cluster.url, key) as client:
        await use(client, key)
        await cluster.begin_move(slot_of(key), source, target)
        await use(client, key)
        await cluster.move_keys(source, target, f"{{{key}}}:1", f"{{{key}}}:2")
        await use(client, key)
        await cluster.end_move(slot_of(key), source, target)
        await use(client, key)


async def test_a_script_over_several_keys_waits_while_they_are_on_two_nodes(cluster: RedisCluster) -> None:
    key = "{scripted}"
    source = await cluster.owner(key)
    target = next(member for member in cluster.members if member is not source)
    async with open_client(cluster.url, key) as client:
        script = Script(client, "lua/usage_add.lua")
        keys = [f"{key}:number", f"{key}:names", f"{key}:counts"]
        arguments: list[str | int | bytes] = [1, 60, 60, 10, "*", 0, 60, 1, "", "count", 5]
        assert await script(keys, arguments) == b""
        await cluster.begin_move(slot_of(key), source, target)
        await cluster.move_keys(source, target, keys[0])
        calling = asyncio.create_task(script(keys, [2, *arguments[1:]]))
        await asyncio.wait((calling,), timeout=0.1)
        await cluster.end_move(slot_of(key), source, target)
        assert await calling == b""
        assert await client.hget(keys[2], "count") == b"10"


async def test_buckets_are_found_read_and_deleted_on_all_masters(cluster: RedisCluster) -> None:
    async with open_client(cluster.url) as client:
        buckets = Buckets(client, layout_of(client, "rate"))
        for user in ("a", "b", "c", "d"):
            mine = [f"rate:shadow:user:{{{user}}}", f"rate:user:{{{user}}}", f"rate:user:{{{user}}}:api:/x"]
            owner = await cluster.owner(mine[0])
            for key in mine:
                await owner.client.hset(key, mapping={"tokens": "2", "last": "5"})
        await (await cluster.owner("rate:global")).client.hset(
            "rate:global", mapping={"tokens": "7", "last": "5"}
        )
        stored = await buckets.read(["rate:global", *mine])
        assert {key: bucket.tokens // MICRO for key, bucket in stored.buckets.items()} == {
            "rate:global": 7
        } | dict.fromkeys(mine, 2)
        assert isinstance(stored.buckets["rate:global"], Bucket)
        for user in ("a", "b", "c", "d"):
            found = await buckets.keys_of(user)
            assert found == sorted(
                [f"rate:shadow:user:{{{user}}}", f"rate:user:{{{user}}}", f"rate:user:{{{user}}}:api:/x"]
            )
            await buckets.delete(found)
            assert await buckets.keys_of(user) == []


@asynccontextmanager
async def stale_node(lost: int, live: int) -> AsyncIterator[str]:
    """Serves as a node that still names a lost master as the owner of all slots but the last one.

    Args:
        lost: the port of that master.
        live: the port of the owner of the last slot.
    """
    ranges = ((0, SLOTS - 2, lost), (SLOTS - 1, SLOTS - 1, live))
    reply = f"*{len(ranges)}\r\n" + "".join(
        f"*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n{LOOPBACK}\r\n:{port}\r\n" for first, last, port in ranges
    )
    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            writer.write(reply.encode() if b"SLOTS" in received else b"+OK\r\n" * received.count(b"*"))
        writer.close()
        await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.create_task(handle(reader, writer)))

    async with await asyncio.start_server(accept, LOOPBACK, 0) as server:
        yield f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    await asyncio.gather(*handlers)


async def test_another_node_is_asked_when_one_names_a_lost_master(cluster: RedisCluster) -> None:
    key = "owned"
    owner = await cluster.owner(key)
    async with (
        stale_node(lost=free_port(), live=owner.port) as stale,
        open_client(f"redis+cluster://{stale}", key) as client,
    ):
        assert await client.set(key, "a")
        assert await owner.client.get(key) == b"a"


async def test_a_lost_master_that_all_nodes_name_is_an_error_at_once() -> None:
    lost = free_port()
    async with (
        stale_node(lost=lost, live=lost) as stale,
        open_client(f"redis+cluster://{stale}", "owned") as client,
    ):
        with pytest.raises(NotConnectedError, match=f"{LOOPBACK}:{lost}"):
            await client.get("owned")


async def test_nodes_that_do_not_answer_are_searched_once(
    cluster: RedisCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search may take two seconds, and a command must not wait for several."""
    searches = []

    async def unanswered(searching: Cluster) -> SlotMap:
        searches.append(searching)
        raise NoNodeAnswersError("no node of the cluster answers")

    async with open_client(cluster.url, "searched") as client:
        await client.get("searched")
        monkeypatch.setattr(Cluster, "_ask_nodes", unanswered)
        await client.connection_pool.disconnect()
        with pytest.raises(NoNodeAnswersError):
            await client.get("searched")
    assert len(searches) == 1
