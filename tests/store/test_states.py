"""States in which a real Redis cannot decide: each is an error of a call and of a script, and never a denial.

Another connection may lead to a server that can decide, if this one is a replica or loads its data.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from ratelimitd.core.model import Limit
from ratelimitd.errors import StoreError
from ratelimitd.limiter.redis_limiter import RedisLimiter, greeting
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import connector, open_client, refuse_unsupported
from ratelimitd.store.link import Link
from tests.core.take_requests import take_request
from tests.eventually import eventually
from tests.redis_server import redis_server
from tests.script_limiter import take_batch
from tests.store.server import execute, opened_again

QUICK_TO_REPORT = (
    *("--busy-reply-threshold", "20"),
    *("--enable-debug-command", "yes"),
    *("--loading-process-events-interval-bytes", "1024"),
)
"""Redis answers other clients soon while it runs a script or loads its data."""

State = Callable[[Redis], AbstractAsyncContextManager[None]]


def configured(**changes: str) -> State:
    """Returns a state that a change of the configuration begins."""

    @asynccontextmanager
    async def state(client: Redis) -> AsyncIterator[None]:
        names = {name.replace("_", "-"): value for name, value in changes.items()}
        before = {name: str((await client.config_get(name))[name]) for name in names}
        for name, changed in names.items():
            await client.config_set(name, changed)
        yield
        for name, old in before.items():
            await client.config_set(name, old)

    return state


@asynccontextmanager
async def replica(client: Redis) -> AsyncIterator[None]:
    """Follows a master that does not exist."""
    await client.replicaof("127.0.0.1", str(free_port()))
    yield
    await client.replicaof("NO", "ONE")


@asynccontextmanager
async def replica_without_stale_data(client: Redis) -> AsyncIterator[None]:
    """Answers no reads either, because its data may be old."""
    await client.config_set("replica-serve-stale-data", "no")
    async with replica(client):
        yield


@asynccontextmanager
async def full_disk(client: Redis) -> AsyncIterator[None]:
    """Fails to save, because its folder is gone."""
    folder = Path(str((await client.config_get("dir"))["dir"]))
    await client.config_set("save", "3600 1")
    await client.set("changed", 1)
    shutil.rmtree(folder)
    await client.bgsave()

    async def failed() -> bool:
        return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")

    await eventually(failed, "saving fails")
    yield
    folder.mkdir()
    await client.config_set("stop-writes-on-bgsave-error", "no")
    await client.config_set("save", "")


@asynccontextmanager
async def in_another_call(client: Redis, *arguments: str) -> AsyncIterator[None]:
    """Sends a command on a connection of its own, and waits for its end after the block."""
    port = client.connection_pool.connection_kwargs["port"]
    async with Redis(host="127.0.0.1", port=port, socket_timeout=None) as other:
        call = asyncio.ensure_future(other.execute_command(*arguments))  # type: ignore[no-untyped-call] # it is untyped
        try:
            yield
        finally:
            with suppress(ResponseError):  # a script that was killed
                await call


@asynccontextmanager
async def loading(client: Redis) -> AsyncIterator[None]:
    """Loads its data slowly."""
    await client.mset({f"key-{n}": "v" * 100 for n in range(5000)})
    await client.config_set("key-load-delay", "2000")

    async def loads() -> bool:
        return bool((await client.info("persistence"))["loading"])

    async with in_another_call(client, "DEBUG", "RELOAD"):
        try:
            await eventually(loads, "it loads")
            yield
        finally:
            await client.config_set("key-load-delay", "0")


@asynccontextmanager
async def busy(client: Redis) -> AsyncIterator[None]:
    """Runs a script that does not end."""

    async def refuses() -> bool:
        try:
            await client.ping()
        except ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    async with in_another_call(client, "EVAL", "while true do end", "0"):
        try:
            await eventually(refuses, "it is busy")
            yield
        finally:
            await client.script_kill()  # a busy Redis does not end


STATES: dict[str, tuple[State, bool]] = {
    "READONLY": (replica, True),
    "MASTERDOWN": (replica_without_stale_data, True),
    "LOADING": (loading, True),
    "MISCONF": (full_disk, False),
    "OOM": (configured(maxmemory="1"), False),
    "NOREPLICAS": (configured(min_replicas_to_write="1"), False),
    "BUSY": (busy, False),
}
"""States by the code of their error, and whether another connection may lead to a server that can decide."""


@pytest.mark.parametrize("code", STATES)
async def test_a_store_that_cannot_decide_denies_nothing(code: str) -> None:
    state, reconnects = STATES[code]
    requests = [take_request({"k": Limit(1_000, 1)})]
    async with redis_server(*QUICK_TO_REPORT) as (address, client):
        url = f"redis://{address}/0"
        async with Link(connector(url), greeting=greeting()) as link, open_client(url) as other:
            limiter = RedisLimiter(link)
            assert (await take_batch(limiter, requests))[0].allowed
            opened = link.opened
            async with state(client):
                with pytest.raises(StoreError, match=f"the store failed: {code} "):
                    await take_batch(limiter, requests)
                if reconnects:
                    await opened_again(link, opened + 1)
                with pytest.raises(RedisError, match=f"^{code} "):
                    await (other.get("k2") if code == "MASTERDOWN" else other.set("k2", "v"))
                if not reconnects:
                    with pytest.raises(ResponseError, match=f"^{code} "):
                        await execute(link, "SET", "k2", "v")
                    assert link.opened == opened

            async def decides() -> bool:
                with suppress(StoreError):
                    return (await take_batch(limiter, requests))[0].allowed
                await asyncio.sleep(0)
                return False

            await eventually(decides, "the store decides again")


async def test_a_start_on_a_busy_store_goes_on() -> None:
    """SELECT is refused as long as the script runs, so the database may exist."""
    async with redis_server(*QUICK_TO_REPORT) as (address, client), busy(client):
        await refuse_unsupported(f"redis://{address}/3")
