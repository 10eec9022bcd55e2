"""Tests of credentials and URLs in files, and from classes, that change while connections are open."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.store.access import StoreAccess
from ratelimitd.store.access_watch import REFUSED_S, watching_access
from ratelimitd.store.client import connector, open_client
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.link import Link
from ratelimitd.store_source import StoreSource
from tests.eventually import eventually
from tests.redis_server import redis_server
from tests.sentinels import SERVICE, host_and_port
from tests.store.server import execute, opened_again
from tests.store_user import NEW, OLD, USER, connections, set_user, store_with_user, swap_link, write_in_place


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the watch look often."""
    monkeypatch.setattr("ratelimitd.store.access_watch.INTERVAL_S", 0.01)


@asynccontextmanager
async def opened(source: StoreSource) -> AsyncIterator[tuple[Link, Redis]]:
    """Yields a link and a client that follow the changes of a source, as a service has them."""
    access = StoreAccess(source)
    async with (
        open_client(access) as client,
        Link(connector(access, pool_of(client).locate)) as link,
        watching_access(access, link.renew),
    ):
        pool_of(client).follow(lambda: link.opened)
        yield link, client


async def logged(logs: list[Any], event: str, reason: str = "") -> Any:
    """Waits for a line in the log, and returns it."""

    def found() -> list[Any]:
        return [line for line in logs if line["event"] == event and reason in line.get("reason", "")]

    async def there() -> bool:
        return bool(found())

    await eventually(there, f"{event} is logged")
    return found()[-1]


async def no_more(store: Redis, before: set[int]) -> bool:
    """Returns whether none of these connections is open."""
    return not before & await connections(store)


async def assert_both_are_new(link: Link, client: Redis, store: Redis, before: set[int]) -> None:
    """Asserts that the link and the client work, on other connections than before."""
    assert await execute(link, "PING") == b"PONG"
    assert await client.ping()
    await eventually(lambda: no_more(store, before), "all connections are new")


async def assert_followed(source: StoreSource, store: Redis, change: Callable[[], None]) -> None:
    """Asserts that connections are replaced by new ones after a change from the password OLD to NEW."""
    async with opened(source) as (link, client):
        assert (await execute(link, "PING"), await client.ping()) == (b"PONG", True)
        before = await connections(store)
        await set_user(store, f">{NEW}")
        with capture_logs() as logs:
            change()
            await logged(logs, "store_renewed")
        await set_user(store, f"<{OLD}")
        await assert_both_are_new(link, client, store, before)


@pytest.mark.parametrize("write", [write_in_place, swap_link])
async def test_a_password_file_is_followed(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    password = tmp_path / "password"
    write(password, OLD)
    async with store_with_user() as (address, store):
        source = StoreSource(f"redis://{address}/0", username=USER, password_file=str(password))
        await assert_followed(source, store, partial(write, password, NEW))


later = SimpleNamespace(monotonic=lambda: time.monotonic() + REFUSED_S)
"""The time at which refused credentials are tried again."""


async def test_a_password_that_the_store_refuses_leaves_the_last_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = tmp_path / "password"
    swap_link(password, OLD)
    async with store_with_user() as (address, store):
        source = StoreSource(f"redis://{address}/0", username=USER, password_file=str(password))
        async with opened(source) as (link, client):
            assert (await execute(link, "PING"), await client.ping()) == (b"PONG", True)
            before = await connections(store)
            with capture_logs() as logs:
                swap_link(password, NEW)
                await opened_again(link, 2)
                await assert_both_are_new(link, client, store, before)
                await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped
                await opened_again(link, 3)
                await assert_both_are_new(link, client, store, before)
                refused = logs.copy()
                await set_user(store, f">{NEW}", f"<{OLD}")
                before = await connections(store)
                monkeypatch.setattr("ratelimitd.store.access_watch.time", later)
                await logged(logs, "store_renewed")
                await assert_both_are_new(link, client, store, before)
            assert [(line["event"], line["reason"]) for line in refused] == [
                ("store_credentials_refused", "WRONGPASS invalid username-password pair or user is disabled.")
            ]
            assert [line["event"] for line in logs[1:]] == ["store_renewed"]


async def test_each_refusal_of_the_same_password_after_another_change_is_logged(tmp_path: Path) -> None:
    password = tmp_path / "password"
    write_in_place(password, OLD)
    async with store_with_user() as (address, _):
        source = StoreSource(f"redis://{address}/0", username=USER, password_file=str(password))
        async with opened(source) as (link, _):
            assert await execute(link, "PING") == b"PONG"
            with capture_logs() as logs:
                for number in (2, 4):
                    write_in_place(password, NEW)
                    await opened_again(link, number)
                    write_in_place(password, OLD)
                    await opened_again(link, number + 1)
                    await logged(logs, "store_renewed")
            events = ["store_credentials_refused", "store_renewed"]
            assert [line["event"] for line in logs] == events * 2


PROVIDERS = '''
import threading, time
from pathlib import Path
from redis.credentials import CredentialProvider, StreamingCredentialProvider

def now():
    return ("ratelimitd", Path({path!r}).read_text())

class Sync(CredentialProvider):
    def get_credentials(self):
        return now()

class Async(CredentialProvider):
    async def get_credentials_async(self):
        return now()

class Plain:
    async def get_credentials(self):
        return now()

class Streaming(StreamingCredentialProvider):
    """Announces a change of the file from another thread."""
    def __init__(self):
        self.seen = now()
        threading.Thread(target=self.watch, daemon=True).start()
    def watch(self):
        while now() == self.seen or not self.callback:
            time.sleep(0.05)
        self.callback(object())
    callback = None
    def get_credentials(self):
        return now()
    def on_next(self, callback):
        self.callback = callback
    def on_error(self, callback):
        pass
    def is_streaming(self):
        return True
'''


@pytest.mark.parametrize("kind", ["Sync", "Async", "Plain", "Streaming"])
async def test_a_class_that_returns_new_credentials_is_followed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    swap_link(token, OLD)
    module = f"tokens_for_{kind.lower()}"
    (tmp_path / f"{module}.py").write_text(PROVIDERS.format(path=str(token)))
    monkeypatch.syspath_prepend(tmp_path)
    if kind != "Streaming":  # this one must not depend on the time between two questions
        monkeypatch.setattr("ratelimitd.store.provider.INTERVAL_S", 0.01)
    async with store_with_user() as (address, store):
        source = StoreSource(f"redis://{address}/0", provider=f"{module}:{kind}")
        await assert_followed(source, store, partial(swap_link, token, NEW))


async def test_a_url_file_that_cannot_be_used_is_one_line_in_the_log(tmp_path: Path) -> None:
    url = tmp_path / "url"
    async with store_with_user() as (address, store):
        write_in_place(url, f"redis://{USER}:{OLD}@{address}/0")
        async with opened(StoreSource(url_file=str(url))) as (link, client):
            with capture_logs() as logs:
                for content, reason in (
                    (f"redis+cluster://{USER}:{OLD}@{address}", "the topology of the store is cluster now"),
                    (f"redis://{USER}:{OLD}@{address}/x", "names no database"),
                    ("", "the file is empty"),
                    (f"http://{OLD}@{address}", "must begin with redis://"),
                ):
                    write_in_place(url, content)
                    line = await logged(logs, "store_file_refused", reason)
                    assert line["setting"] == "RATELIMITD_REDIS_URL_FILE"
            assert "hunter2" not in str(logs)
            await client.connection_pool.disconnect()
            await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped
            await opened_again(link, 2)
            assert await execute(link, "PING") == b"PONG"
            assert await client.ping()


async def test_a_url_file_that_names_other_sentinels_is_followed(tmp_path: Path) -> None:
    url = tmp_path / "url"
    async with AsyncExitStack() as stack:
        urls, masters = [], []
        for service in (SERVICE, "other"):
            address, master = await stack.enter_async_context(redis_server())
            at, sentinel = await stack.enter_async_context(redis_server(sentinel=True))
            await sentinel.sentinel_monitor(service, *host_and_port(address), 1)
            urls.append(f"redis+sentinel://{at}/{service}")
            masters.append(master)
        write_in_place(url, urls[0])
        async with opened(StoreSource(url_file=str(url))) as (link, client):
            await execute(link, "SET", "link", 1)
            await client.set("client", 1)
            assert await masters[0].exists("link", "client") == 2
            with capture_logs() as logs:
                write_in_place(url, urls[1])
                await logged(logs, "store_renewed")
            await execute(link, "SET", "link", 1)
            await client.set("client", 1)
            assert await masters[1].exists("link", "client") == 2


async def test_a_password_file_of_the_sentinels_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a refusal, the connections to the Sentinels are replaced by new ones."""
    password = tmp_path / "password"
    write_in_place(password, OLD)
    async with redis_server() as (address, _), redis_server(sentinel=True) as (at, sentinel):
        await sentinel.sentinel_monitor(SERVICE, *host_and_port(address), 1)
        await set_user(sentinel, "on", f">{OLD}", "allcommands", "allchannels")
        source = StoreSource(
            f"redis+sentinel://{at}/{SERVICE}", sentinel_username=USER, sentinel_password_file=str(password)
        )
        async with opened(source) as (link, client):
            assert await execute(link, "PING") == b"PONG"
            before = await connections(sentinel)
            with capture_logs() as logs:
                write_in_place(password, NEW)
                refused = await logged(logs, "store_credentials_refused", "WRONGPASS")
                assert await client.ping()
                await set_user(sentinel, f">{NEW}", f"<{OLD}")
                before |= await connections(sentinel)
                monkeypatch.setattr("ratelimitd.store.access_watch.time", later)
                await logged(logs, "store_renewed")
            assert await connections(sentinel)
            await eventually(lambda: no_more(sentinel, before), "all connections are new")
            assert "hunter2" not in str(refused)
