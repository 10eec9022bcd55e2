"""A service whose credentials and URL change under load, on a real Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.process.loopback import free_port
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.store_user import NEW, OLD, USER, connections, set_user, store_with_user, swap_link, write_in_place
from tests.system.check_load import Load, load_on
from tests.system.processes import line_with, started

LIMITS = limits_json(**{f"{tier}_capacity": 1_000_000 for tier in ("global", "user", "user_api")})
LAST = "last-hunter2"


@asynccontextmanager
async def service(transport: str, *options: str, **env: str) -> AsyncIterator[tuple[Any, Load]]:
    """Yields a running service, under load, and the answers."""
    target = f"127.0.0.1:{free_port()}"
    # On a busy machine a decision may take longer than the default of 50 ms.
    serve = ("serve", "--transport", transport, "--listen", target, "--leave-s", "0", "--log-format", "json")
    async with started(*serve, "--store-timeout-ms", "2000", *options, env=env) as process:
        await line_with(process, '"listening"')
        async with load_on(target) as load:
            await load.until(200)  # on a busy machine, the first calls may come before the store answers
            load.statuses.clear()
            await load.more()
            assert load.statuses.keys() == {200}
            yield process, load


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_password_changes_in_each_order(transport: str, tmp_path: Path) -> None:
    """The store first, the file first, and the old password removed too early: only that is an outage."""
    password = tmp_path / "password"
    swap_link(password, OLD)
    async with store_with_user() as (address, store):
        await store.set(KEY, LIMITS)
        options = ("--redis-url", f"redis://{address}/0", "--redis-username", USER)
        async with service(transport, *options, "--redis-password-file", str(password)) as (process, load):
            await set_user(store, f">{NEW}")
            before = await connections(store)
            swap_link(password, NEW)
            await line_with(process, "store_renewed")
            await set_user(store, f"<{OLD}")

            async def replaced() -> bool:
                await load.more(10)
                return not before & await connections(store)

            await eventually(replaced, "all connections are new")
            await load.more()

            swap_link(password, LAST)
            refused = await line_with(process, "store_credentials_refused")
            assert "WRONGPASS" in refused
            await load.more()
            await set_user(store, f">{LAST}", f"<{NEW}")
            await load.more()
            assert load.statuses.keys() == {200}

            await set_user(store, f">{OLD}", f"<{LAST}")
            await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped
            away = await line_with(process, "store_away")
            assert "WRONGPASS" in away
            assert "the credentials come from the URL, RATELIMITD_REDIS_PASSWORD_FILE" in away
            swap_link(password, OLD)
            back = await line_with(process, "store_back")
            assert "hunter2" not in refused + away + back
            undecided = load.statuses[503]
            await load.more()
            assert load.statuses == {200: load.statuses[200], 503: undecided}


async def test_a_url_file_that_names_another_host_moves_all_connections(tmp_path: Path) -> None:
    url = tmp_path / "url"
    async with store_with_user() as (address, old), store_with_user() as (new_address, new):
        await old.set(KEY, LIMITS)
        await new.set(KEY, LIMITS)
        write_in_place(url, f"redis://{USER}:{OLD}@{address}/0")
        async with service("fast", "--redis-url-file", str(url)) as (process, load):
            write_in_place(url, f"redis://{USER}:{OLD}@{new_address}/0")
            line = await line_with(process, "store_renewed")
            assert f'"server": "{new_address}"' in line

            async def moved() -> bool:
                await load.more(10)
                return not await connections(old)

            await eventually(moved, "no connection leads to the old server")
            assert await new.exists("rate:user:u1:api:*")
        assert load.statuses.keys() == {200}


TOKENS = """
from redis.credentials import CredentialProvider

class Tokens(CredentialProvider):
    def get_credentials(self):
        return "ratelimitd", "old-hunter2"
"""


async def test_a_class_provides_the_credentials(tmp_path: Path) -> None:
    (tmp_path / "myiam.py").write_text(TOKENS)
    async with store_with_user() as (address, store):
        await store.set(KEY, LIMITS)
        options = ("--redis-url", f"redis://{address}/0", "--redis-credentials", "myiam:Tokens")
        async with service("fast", *options, PYTHONPATH=str(tmp_path)):
            assert await connections(store)
