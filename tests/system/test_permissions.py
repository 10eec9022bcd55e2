"""Tests of Redis users with few permissions: the documented ones, and ones that lack something."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from ratelimitd import settings
from ratelimitd.app import run_service
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import open_client
from tests.eventually import eventually
from tests.redis_server import redis_server
from tests.system.command import Result, run
from tests.system.processes import line_with, started

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
LINES = re.findall(r"^ACL SETUSER .*$", OPERATIONS.read_text(), re.MULTILINE)
SERVICE, OPERATOR = ("ratelimitd", "ratelimitd-operator")
POLICY = """
tiers:
  global: { capacity: 500, refill_rate: 50 }
  user: { capacity: 1, refill_rate: 0.001, shadow: true }
  user_api: { capacity: 2, refill_rate: 0.001 }
"""

OPTIONAL = (
    "+client|setname",
    "+script|load",
    "+ping",
    "+publish",
    "+subscribe",
    "&{rate_limit:config}:changes",
)


@asynccontextmanager
async def store_with_users(*without: str) -> AsyncIterator[tuple[str, Redis]]:
    """Yields HOST:PORT of a Redis with the documented users, and a client that may do everything."""
    async with redis_server() as (address, client):
        for line in LINES:
            rules = [rule for rule in line.split() if rule not in without]
            await client.execute_command(*rules)  # type: ignore[no-untyped-call] # it is untyped
        yield address, client


async def operate(address: str, *arguments: str, text: str = "") -> Result:
    """Runs a command as the documented operator, whose password is in a file."""
    with NamedTemporaryFile("w", prefix="ratelimitd-") as file:
        file.write("PASSWORD\n")
        file.flush()
        options = ("--redis-url", f"redis://{address}/0", "--redis-username", OPERATOR)
        return await run(*arguments, *options, "--redis-password-file", file.name, text=text)


async def use_everything(address: str, target: str, client: Redis) -> None:
    """Uses every command and decides requests while the service at `target` runs."""
    for arguments in (
        ("policy", "apply", "-", "--wait"),
        ("policy", "apply", "-", "--wait", "--note", "again"),
        ("policy", "rollback", "1", "--wait"),
        ("policy", "show"),
        ("policy", "history"),
        ("policy", "diff", "-"),
        ("explain", "--user", "u1", "--path", "/api/x"),
        ("usage",),
        ("top", "--denied"),
    ):
        done = await operate(address, *arguments, text=POLICY)
        assert (done.status, "the store" in done.err) == (0, False), done.err
    await client.set("rate:user:u1:api:*", "not a bucket")
    check = ("check", "--user", "u1", "--path", "/api/x", "--target", target, "--timeout-s", "10")
    assert [(await run(*check)).status for _ in range(3)] == [0, 0, 6]

    async def shadow_counted() -> bool:
        status = (await operate(address, "policy", "status", "--json")).json
        assert [replica["number"] for replica in status["replicas"]] == [3]
        return bool(status["shadow"] == {"tiers.user": 1})

    await eventually(shadow_counted, "the replica publishes the shadow count")
    assert "rate:user:u1:api:" in (await operate(address, "bucket", "show", "u1")).out
    assert (await operate(address, "bucket", "reset", "u1", "--yes")).status == 0
    assert (await operate(address, "bucket", "show", "u1", "--json")).json == {"buckets": []}


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_the_documented_users_can_do_everything(transport: str, tmp_path: Path) -> None:
    """Also after a new password came into force."""
    assert [line.split()[2] for line in LINES] == [SERVICE, OPERATOR]
    password = tmp_path / "password"
    password.write_text("PASSWORD\n")
    async with store_with_users() as (address, client):
        target = f"127.0.0.1:{free_port()}"
        serve = ("serve", "--transport", transport, "--listen", target, "--leave-s", "0")
        store = ("--redis-url", f"redis://{address}/0", "--redis-username", SERVICE)
        patience = ("--store-timeout-ms", "5000")  # the machine of the tests may be busy
        async with started(*serve, *store, "--redis-password-file", str(password), *patience) as process:
            await line_with(process, '"listening"')
            await client.execute_command("ACL", "SETUSER", SERVICE, ">NEW")  # type: ignore[no-untyped-call] # it is untyped
            password.write_text("NEW\n")
            await line_with(process, "store_renewed")
            await client.execute_command("ACL", "SETUSER", SERVICE, "<PASSWORD")  # type: ignore[no-untyped-call] # it is untyped
            await use_everything(address, target, client)
        refused = {(entry["username"], entry["object"]) for entry in await client.acl_log()}
        assert refused <= {
            (OPERATOR, "ping")
        }  # before a replica reported: why does the store hold no counts?


async def test_the_optional_permissions_are_not_needed() -> None:
    async with store_with_users(*OPTIONAL) as (address, client):
        flags = {
            "redis_url": f"redis://{SERVICE}:PASSWORD@{address}/0",
            "listen": "127.0.0.1:0",
            "store_timeout_ms": "5000",
        }
        async with run_service(
            settings.load({}, flags=flags | {"metrics_listen": "off"}), "grpcio"
        ) as listener:
            await use_everything(address, str(listener.address), client)


@pytest.mark.parametrize("without", ["+subscribe", "&{rate_limit:config}:changes"])
async def test_a_subscription_that_is_not_permitted_is_logged(without: str) -> None:
    async with store_with_users(without) as (address, _):
        url = f"redis://{SERVICE}:PASSWORD@{address}/0"
        serve = ("serve", "--transport", "grpcio", "--redis-url", url, "--listen", "127.0.0.1:0")
        async with started(*serve, "--leave-s", "0") as process:
            line = await line_with(process, "policy_subscription_refused")
            assert re.search('"channel": ?"{rate_limit:config}:changes"', line)
            assert "NOPERM" in line


@pytest.mark.parametrize(
    ("without", "arguments", "reason"),
    [
        ("+time", ("policy", "status"), "NOPERM .*'time' command .*the command was TIME"),
        ("~rate_limit:config", ("policy", "status"), "NOPERM .*the command was GET rate_limit:config"),
        ("~rate:*", ("bucket", "reset", "u1", "-y"), "NOPERM .*the command was EXISTS rate:user:u1"),
        ("+scan", ("bucket", "show", "u1"), "NOPERM .*'scan' command"),
        (
            "+evalsha",
            ("policy", "apply", "-"),
            "NOPERM .*'evalsha' command .*EVALSHA with the keys rate_limit",
        ),
        (
            "+hset",
            ("policy", "apply", "-"),
            "NOPERM .* to run HSET on {rate_limit:config}:revisions",
        ),
        (">PASSWORD", ("policy", "status"), "WRONGPASS invalid username-password pair"),
    ],
)
async def test_a_missing_permission_is_named(
    without: str, arguments: tuple[str, ...], reason: str, address: str
) -> None:
    async with open_client(f"redis://{address}") as client:
        await client.acl_deluser(OPERATOR)
        rules = [rule for rule in LINES[1].split() if rule != without]
        await client.execute_command(*rules)  # type: ignore[no-untyped-call] # it is untyped
    done = await operate(address, *arguments, text=POLICY)
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert re.search(f"^ratelimitd: the store failed: {reason}", done.err), done.err
    assert not re.search(r"\bPASSWORD\b", done.err)


@pytest.mark.parametrize("without", ["+hset", "+hdel", "+unlink", "+set"])
async def test_a_change_of_the_policy_writes_all_or_nothing(without: str, address: str) -> None:
    async with open_client(f"redis://{address}") as client:
        await client.flushall()
        await client.acl_deluser(OPERATOR)
        rules = [rule for rule in LINES[1].split() if rule != without]
        await client.execute_command(*rules)  # type: ignore[no-untyped-call] # it is untyped
        done = await operate(address, "policy", "apply", "-", text=POLICY)
        assert (done.status, done.err.count("\n")) == (1, 1)
        assert re.search(
            f"^ratelimitd: the store failed: NOPERM .* to run {without[1:].upper()} on", done.err
        ), done.err
        assert await client.keys() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address() -> AsyncIterator[str]:
    """Yields HOST:PORT of a Redis with the documented users, which a test may change."""
    async with store_with_users() as (address, _):
        yield address


@pytest.mark.parametrize(
    ("without", "reason"),
    [
        ("~rate:*", "NOPERM .*EVALSHA with the keys rate:global, rate:user:u1"),
        ("+pexpire", "can't run this command .*the script runs .*PEXPIRE"),
    ],
)
async def test_the_log_names_a_permission_that_decisions_lack(without: str, reason: str) -> None:
    async with store_with_users(without) as (address, _):
        url, target = f"redis://{SERVICE}:PASSWORD@{address}/0", f"127.0.0.1:{free_port()}"
        serve = ("serve", "--transport", "grpcio", "--redis-url", url, "--listen", target, "--leave-s", "0")
        async with started(*serve) as process:
            await line_with(process, '"listening"')
            check = ("check", "--user", "u1", "--path", "/api/x", "--target", target, "--timeout-s", "10")
            assert (await run(*check)).status == 1
            assert re.search(f"the store failed: .*{reason}", await line_with(process, "store_away"))
