"""Tests of credentials and URLs in files that change while the service runs, on a real Redis."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from ratelimitd.process.loopback import free_port
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.redis_server import redis_server
from tests.system.check_load import CALLERS, Load, load_on
from tests.system.processes import line_with, started

USER = "ratelimitd"
OLD, NEW = "old-hunter2", "new-hunter2"
LIMITS = limits_json(**{f"{tier}_capacity": 1_000_000 for tier in ("global", "user", "user_api")})

TRANSPORTS = pytest.mark.parametrize("transport", ["grpcio", "fast"])


async def set_user(store: Redis, *rules: str) -> None:
    """Changes the user of the service."""
    await store.execute_command("ACL", "SETUSER", USER, *rules)  # type: ignore[no-untyped-call] # it is untyped


async def connections(store: Redis) -> set[int]:
    """Returns the numbers of the service's connections."""
    return {int(one["id"]) for one in await store.client_list() if one["user"] == USER}


def write_in_place(path: Path, text: str) -> None:
    """Overwrites a file."""
    path.write_text(text + "\n")


def swap_link(path: Path, text: str) -> None:
    """Changes a file in the way of Kubernetes: it is a link through a link to a folder that is replaced."""
    data = path.parent / "..data"
    folder = path.parent / f"..{text}"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_text(text)
    new = path.parent / "..data_tmp"
    new.symlink_to(folder.name)
    new.replace(data)
    if not path.is_symlink():
        path.symlink_to(Path("..data") / path.name)


@asynccontextmanager
async def store_with_user() -> AsyncIterator[tuple[str, Redis]]:
    """Yields HOST:PORT of a Redis whose user has the password OLD, and a client that may do everything."""
    async with redis_server() as (address, store):
        await set_user(store, "on", f">{OLD}", "allkeys", "allchannels", "allcommands")
        await store.set(KEY, LIMITS)
        yield address, store


@asynccontextmanager
async def service(transport: str, *options: str, **env: str) -> AsyncIterator[tuple[Any, Load]]:
    """Yields a running service, under load, and the answers."""
    target = f"127.0.0.1:{free_port()}"
    # On a busy machine a decision may take longer than the default of 50 ms.
    serve = ("serve", "--transport", transport, "--listen", target, "--leave-s", "0", "--log-format", "json")
    async with started(*serve, "--store-timeout-ms", "2000", *options, env=env) as process:
        await line_with(process, '"listening"')
        async with load_on(target) as load:
            await load.more()
            assert load.statuses.keys() == {200}
            yield process, load


def files(address: str, password: Path) -> tuple[str, ...]:
    """Returns the options of a service with the password in a file."""
    return (
        *("--redis-url", f"redis://{address}/0", "--redis-username", USER),
        *("--redis-password-file", str(password)),
    )


@pytest.mark.parametrize(
    ("transport", "write"), [("grpcio", write_in_place), ("grpcio", swap_link), ("fast", swap_link)]
)
async def test_a_rotated_password_loses_no_decision(
    transport: str, write: Callable[[Path, str], None], tmp_path: Path
) -> None:
    password = tmp_path / "password"
    write(password, OLD)
    async with store_with_user() as (address, store):
        async with service(transport, *files(address, password)) as (process, load):
            await set_user(store, f">{NEW}")
            before = await connections(store)
            write(password, NEW)
            await line_with(process, "store_renewed")
            await set_user(store, f"<{OLD}")

            async def replaced() -> bool:
                await load.more(10)
                return not before & await connections(store)

            await eventually(replaced, "all connections are new")
            await load.more()
        assert load.statuses.keys() == {200}


async def test_a_password_that_was_removed_first_is_an_outage_until_the_file_changes(
    tmp_path: Path,
) -> None:
    password = tmp_path / "password"
    write_in_place(password, OLD)
    async with (
        store_with_user() as (address, store),
        service("fast", *files(address, password)) as (process, load),
    ):
        await set_user(store, f">{NEW}", f"<{OLD}")
        await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped
        away = await line_with(process, "store_away")
        assert "WRONGPASS" in away
        write_in_place(password, NEW)
        back = await line_with(process, "store_back")
        assert "hunter2" not in away + back
        before = load.statuses[503]
        await load.more()
        assert load.statuses[503] == before


async def test_a_password_that_reaches_the_file_first_loses_no_decision(tmp_path: Path) -> None:
    password = tmp_path / "password"
    write_in_place(password, OLD)
    async with store_with_user() as (address, store):
        async with service("grpcio", *files(address, password)) as (process, load):
            write_in_place(password, NEW)
            line = await line_with(process, "store_credentials_refused")
            assert "WRONGPASS" in line
            assert "hunter2" not in line
            await load.more()
            await set_user(store, f">{NEW}", f"<{OLD}")
            await load.more()
        assert load.statuses.keys() == {200}


@TRANSPORTS
async def test_a_url_file_that_names_another_host_moves_all_connections(
    transport: str, tmp_path: Path
) -> None:
    url = tmp_path / "url"
    async with store_with_user() as (address, old), store_with_user() as (new_address, new):
        write_in_place(url, f"redis://{USER}:{OLD}@{address}/0")
        async with service(transport, "--redis-url-file", str(url)) as (process, load):
            write_in_place(url, f"redis://{USER}:{OLD}@{new_address}/0")
            line = await line_with(process, "store_renewed")
            assert f'"server": "{new_address}"' in line

            async def moved() -> bool:
                await load.more(10)
                return not await connections(old)

            await eventually(moved, "no connection leads to the old server")
            assert await new.exists("rate:user:u1:api:*")
        assert load.statuses.keys() == {200}


async def test_a_url_file_that_cannot_be_used_is_one_line_in_the_log(tmp_path: Path) -> None:
    url = tmp_path / "url"
    async with store_with_user() as (address, store):
        write_in_place(url, f"redis://{USER}:{OLD}@{address}/0")
        async with service("grpcio", "--redis-url-file", str(url)) as (process, load):
            for content, reason in (
                (f"redis+cluster://{USER}:{OLD}@{address}", "the topology of the store is cluster now"),
                (f"redis://{USER}:{OLD}@{address}/x", "names no database"),
                ("", "the file is empty"),
                (f"http://{OLD}@{address}", "must begin with redis://"),
            ):
                write_in_place(url, content)
                line = await line_with(process, "store_file_refused")
                assert reason in line
                assert '"setting": "RATELIMITD_REDIS_URL_FILE"' in line
                assert "hunter2" not in line
            await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped
            before = load.statuses[503]
            await load.more()
            await load.more()
            assert load.statuses[503] - before <= CALLERS  # the calls in flight when Redis cut the connection


PROVIDERS = '''
from redis.credentials import CredentialProvider

def now():
    return ("ratelimitd", open({path!r}).read())

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


@pytest.mark.parametrize(
    ("transport", "kind"),
    [("grpcio", "Sync"), ("grpcio", "Async"), ("fast", "Plain"), ("fast", "Streaming")],
)
async def test_a_class_provides_the_credentials(transport: str, kind: str, tmp_path: Path) -> None:
    password = tmp_path / "token"
    password.write_text(OLD)
    module = PROVIDERS.format(path=str(password))
    imports = "import threading, time\nfrom redis.credentials import StreamingCredentialProvider\n"
    (tmp_path / "myiam.py").write_text(imports + module)
    async with store_with_user() as (address, store):
        options = ("--redis-url", f"redis://{address}/0", "--redis-credentials", f"myiam:{kind}")
        async with service(transport, *options, PYTHONPATH=str(tmp_path)) as (process, load):
            await set_user(store, f">{NEW}")
            password.write_text(NEW)
            await set_user(store, f"<{OLD}")
            if kind == "Streaming":
                await line_with(process, "store_renewed")
            await load.more()
        assert load.statuses.keys() == {200}
