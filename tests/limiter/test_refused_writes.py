"""A real store that answers reads and refuses writes: one outage in the log, and no write is half done."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from ratelimitd.core.model import Limit
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.redis_limiter import RedisLimiter, greeting
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import connector, open_client
from ratelimitd.store.embedded import embedded_store
from ratelimitd.store.link import Link
from tests.core.take_requests import take_request
from tests.eventually import WAIT_S, eventually
from tests.script_limiter import ScriptLimiter

Change = Callable[[Redis], Awaitable[None]]

DENIALS = 20


async def _fail_to_save(store: Redis) -> None:
    """Makes the store fail to save, as with a full disk: its folder is gone."""
    await store.config_set("save", "3600 1")
    await store.set("changed", 1)
    shutil.rmtree(str((await store.config_get("dir"))["dir"]))
    await store.bgsave()

    async def failed() -> bool:
        return bool((await store.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await eventually(failed, "saving fails")


async def _write_without_saving(store: Redis) -> None:
    await store.config_set("stop-writes-on-bgsave-error", "no")
    await store.config_set("save", "")  # a store that fails to save does not stop


def _configure(name: str, value: str) -> Change:
    async def change(store: Redis) -> None:
        await store.config_set(name, value)

    return change


async def _become_replica(store: Redis) -> None:
    await store.replicaof("127.0.0.1", str(free_port()))


async def _become_master(store: Redis) -> None:
    await store.replicaof("NO", "ONE")


REFUSALS = {
    "MISCONF": (_fail_to_save, _write_without_saving),
    "OOM": (_configure("maxmemory", "1"), _configure("maxmemory", "0")),
    "NOREPLICAS": (_configure("min-replicas-to-write", "1"), _configure("min-replicas-to-write", "0")),
    "READONLY": (_become_replica, _become_master),
}


@pytest.fixture
async def own_url() -> AsyncIterator[str]:
    """Runs a store for one test, which may damage it."""
    async with embedded_store() as url:
        yield url


async def take(batcher: Batcher, key: str) -> str:
    """Takes one of two tokens. Returns `allowed`, `denied`, or the error."""
    try:
        outcome = await batcher.take(take_request({key: Limit(2, 0.001)}))
    except StoreError as error:
        return str(error)
    return "allowed" if outcome.allowed else "denied"


async def take_until(batcher: Batcher, logged: list[Any], event: str) -> None:
    """Takes for new users and for one without tokens until `event` is logged."""
    async with asyncio.timeout(WAIT_S):
        number = 0
        while event not in [line["event"] for line in logged]:
            number += 1
            await take(batcher, f"{event}-{number}")
            await take(batcher, "empty")


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_store_that_refuses_writes_is_one_outage(own_url: str, code: str) -> None:
    """Denials need no write. They go on, and they do not end the outage."""
    begin, end = REFUSALS[code]
    async with (
        open_client(own_url) as store,
        Link(connector(own_url), greeting=greeting()) as link,
        Batcher(RedisLimiter(link), timeout_s=WAIT_S) as batcher,
    ):
        assert [await take(batcher, "empty") for _ in range(3)] == ["allowed", "allowed", "denied"]
        await begin(store)
        with capture_logs() as logged:
            await take_until(batcher, logged, "store_away")
            assert logged[0]["reason"].startswith(f"the store failed: {code} ")
            for _ in range(DENIALS):
                await take(batcher, "empty")
                await asyncio.sleep(0)
            assert len(logged) == 1
            await end(store)
            await take_until(batcher, logged, "store_back")
        assert [line["event"] for line in logged] == ["store_away", "store_back"]


@pytest.mark.parametrize("code", REFUSALS)
async def test_a_refused_write_changes_no_bucket(own_url: str, code: str) -> None:
    """A script is refused at its first write. Once it has written, Redis refuses none of its later writes."""
    begin, end = REFUSALS[code]
    request = take_request({key: Limit(2, 0.001) for key in ("global", "user", "api")})
    async with open_client(own_url) as store:
        await ScriptLimiter(store).take(request)
        await store.delete("user")
        before = [await store.hgetall(key) for key in request.keys]
        await begin(store)
        with pytest.raises(ResponseError, match=code):
            await ScriptLimiter(store).take(request)
        assert [await store.hgetall(key) for key in request.keys] == before
        await end(store)
        assert (await ScriptLimiter(store).take(request)).allowed
