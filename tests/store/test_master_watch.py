"""Connections leave an old master when real Sentinels name another one, although the old one lives on."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.cli.store import with_control
from ratelimitd.control.control import Control
from ratelimitd.store.client import connector, open_client
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.link import Link
from ratelimitd.store.master_watch import watching_master
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.redis_server import redis_server
from tests.sentinels import SERVICE, host_and_port
from tests.store.server import execute, opened_again
from tests.system.command import without_log_settings


@dataclass(frozen=True)
class Pair:
    """Two masters, and a Sentinel that watches one of them.

    Args:
        old: HOST:PORT of the master that it watches first.
        at_old: a client of it.
        new: HOST:PORT of the other one.
        at_new: a client of it.
        sentinel: a client of the Sentinel.
        url: the URL of the store.
    """

    old: str
    at_old: Redis
    new: str
    at_new: Redis
    sentinel: Redis
    url: str

    async def move(self) -> None:
        """Makes the Sentinel watch the new master. The old one notices nothing."""
        await self.sentinel.sentinel_remove(SERVICE)
        await self.sentinel.sentinel_monitor(SERVICE, *host_and_port(self.new), 1)

    async def watched(self, client: Redis, address: str) -> None:
        """Waits until the watch of a client has seen this master."""

        async def seen() -> bool:
            return [str(node) for node in pool_of(client).masters] == [address]

        await eventually(seen, f"the watch knows {address}")


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Runs the servers."""
    async with (
        redis_server() as (old, at_old),
        redis_server() as (new, at_new),
        redis_server(sentinel=True) as (address, sentinel),
    ):
        await sentinel.sentinel_monitor(SERVICE, *host_and_port(old), 1)
        yield Pair(old, at_old, new, at_new, sentinel, f"redis+sentinel://{address}/{SERVICE}")


async def test_an_old_master_that_still_takes_writes_is_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections stay open, and no reply on them is an error."""
    monkeypatch.setattr("ratelimitd.store.fresh_pool.MAX_AGE_S", 1000.0)
    async with (
        open_client(pair.url) as client,
        Link(connector(pair.url, pool_of(client).locate)) as link,
        watching_master(client, link),
    ):
        await execute(link, "SET", "link", 1)
        await client.set("client", 1)
        assert await pair.at_old.exists("link", "client") == 2
        await pair.watched(client, pair.old)
        with capture_logs() as logged:
            await pair.move()
            await opened_again(link, 2)
        await execute(link, "SET", "link", 1)
        await client.set("client", 1)
        assert await pair.at_new.exists("link", "client") == 2
    changed = [line for line in logged if line["event"] == "master_changed"]
    assert [(line["before"], line["master"]) for line in changed] == [(pair.old, pair.new)]


async def test_a_command_leaves_an_old_master_on_its_open_connection(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratelimitd.store.fresh_pool.MAX_AGE_S", 1000.0)
    texts = [limits_json(user_capacity=capacity) for capacity in (6, 7)]
    for store, text in zip((pair.at_old, pair.at_new), texts, strict=True):
        await store.set(KEY, text)
    first_read = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def watch(control: Control) -> None:
        async def reads(text: str) -> bool:
            return (await control.current()).revision.text == text

        await eventually(lambda: reads(texts[0]), "the command reads the old master")
        loop.call_soon_threadsafe(first_read.set)
        await eventually(lambda: reads(texts[1]), "the command reads the new master")

    with without_log_settings():
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(with_control, {"redis_url": pair.url}, watch))
            await first_read.wait()
            await pair.move()


@asynccontextmanager
async def frozen(client: Redis) -> AsyncIterator[None]:
    """Stops the process of a server until the end of the block."""
    pid = (await client.info("server"))["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_an_attempt_to_connect_to_an_old_master_is_given_up(pair: Pair) -> None:
    """The old master accepts the connection and answers nothing."""
    async with (
        frozen(pair.at_old),
        open_client(pair.url) as client,
        Link(connector(pair.url, pool_of(client).locate), attempt_s=1000) as link,
        watching_master(client, link),
    ):
        await pair.watched(client, pair.old)
        await pair.move()
        await opened_again(link, 1)
        await execute(link, "SET", "link", 1)
        assert await pair.at_new.exists("link")


async def test_sentinels_that_fail_are_logged_once(pair: Pair) -> None:
    async with open_client(pair.url) as client, watching_master(client):
        with capture_logs() as logged:
            await pair.sentinel.sentinel_remove(SERVICE)

            async def failed() -> bool:
                return bool(logged)

            await eventually(failed, "the failure is logged")
            await pair.sentinel.sentinel_monitor(SERVICE, *host_and_port(pair.new), 1)
            await pair.watched(client, pair.new)
    assert logged[0]["event"] == "sentinel_failed"
    assert "does not watch a master named 'main'" in logged[0]["reason"]
