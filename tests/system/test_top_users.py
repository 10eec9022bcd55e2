"""Top users of two running replicas, by the command line, whose rows lead to commands that work."""

import asyncio
import re
import shlex
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from ratelimitd.app import run_service
from ratelimitd.core.identity import plain_key
from ratelimitd.core.model import Identity, Request
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import load
from ratelimitd.transport.client import check_service
from tests.eventually import eventually
from tests.example_limits import KEY
from tests.system.command import apply, run
from tests.system.processes import end_of, line_with, started
from tests.usage.test_top_publisher import Replica as CountingReplica

pytestmark = pytest.mark.usefixtures("operator", "store")

LIMITS = """
tiers:
  global: { capacity: 1000, refill_rate: 1 }
  user: { capacity: 2, refill_rate: 0.000001 }
  user_api: { capacity: 100, refill_rate: 1 }
"""
STORE_TIMEOUT = ("--store-timeout-ms", "5000")  # the machine of the tests may be busy
HOSTILE = [
    *("alice", "ada@example.com", "a b", "-x", "=anonymous", "'\"`$(id)", "Zoë\u202e", "\x1b[31m</script>"),
    "long-" * 40,
]


def request(user: str | None, address: str = "") -> Request:
    headers = {} if user is None else {"x-user-id": user}
    return Request("GET", "/api/ping", "host", headers, address, {})


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_two_replicas_are_counted_together_also_after_they_stopped(
    store_url: str, transport: str
) -> None:
    await apply(LIMITS)
    flags = ("serve", "--redis-url", store_url, "--transport", transport, "--leave-s", "0", *STORE_TIMEOUT)
    targets = [f"{LOOPBACK}:{free_port()}" for _ in range(2)]
    async with AsyncExitStack() as stack:
        start = [started(*flags, "--listen", target, "--metrics-listen", "") for target in targets]
        replicas = [await stack.enter_async_context(one) for one in start]
        for replica, target in zip(replicas, targets, strict=True):
            await line_with(replica, '"listening"')
            users = ("alice", "alice", "alice", "bob", None)
            calls = [check_service(target, request(user, "203.0.113.9"), timeout_s=20) for user in users]
            dry_run = check_service(target, request("alice"), dry_run=True, timeout_s=20)
            await asyncio.gather(*calls, dry_run)
        for replica in replicas:
            replica.terminate()
        for replica in replicas:
            await end_of(replica)
    answer = (await run("top", "--json")).json
    assert [(user["name"], user["kind"], user["requests"], user["error"]) for user in answer["users"]] == [
        ("alice", "header", 6, 0),
        ("bob", "header", 2, 0),
        ("203.0.113.9", "address", 2, 0),
    ]
    assert (answer["total"], answer["error_bound"], answer["denied"]) == (10, 0, False)
    denied = (await run("top", "--denied", "--json")).json
    assert [(user["name"], user["requests"]) for user in denied["users"]] == [("alice", 4)]


async def test_replicas_with_different_settings_are_shown_together(store_url: str) -> None:
    await apply(LIMITS)
    common = {"redis_url": store_url, "listen": f"{LOOPBACK}:0", "leave_s": "0", "metrics_listen": ""}
    async with AsyncExitStack() as stack:
        for mode in ("on", "hashed", "off"):
            flags = common | {"top_users": mode}
            listener = await stack.enter_async_context(run_service(load({}, flags=flags), "grpcio"))
            await check_service(str(listener.address), request("alice"), timeout_s=20)

        async def differ() -> bool:
            done = await run("top")
            return "WARNING: the replicas differ in RATELIMITD_TOP_USERS: 1 hashed, 1 off, 1 on\n" in done.out

        await eventually(differ, "the replicas are listed with their settings")
    answer = (await run("top", "--json")).json
    assert (answer["mode"], answer["total"]) == ("mixed", 2)
    assert sorted((user["kind"], user["requests"]) for user in answer["users"]) == [
        ("hashed", 1),
        ("header", 1),
    ]


async def published(store: Redis, *keys: str) -> None:
    """Publishes a request of each of these keys, as a replica does."""
    replica = CountingReplica(store)
    replica.decide(*keys)
    await replica.publisher.publish()


@pytest.mark.parametrize(
    "identity",
    [
        *(Identity("header", plain_key(user)) for user in HOSTILE),
        Identity("address", "ip=203.0.113.9"),
        Identity("address", "ip=2001%3Adb8%3A%3A%2F64"),
        Identity("anonymous", "=anonymous"),
    ],
)
async def test_the_commands_after_the_table_work(store: Redis, identity: Identity) -> None:
    await published(store, identity.key)
    await store.hset(f"rate:user:{identity.key}", mapping={"tokens": 1, "last": 0})
    done = await run("top")
    (commands,) = re.findall("^Look further: (.*)$", done.out, re.MULTILINE)
    show, explain, reset = (shlex.split(command)[1:] for command in commands.split("; "))
    shown = await run(*show)
    assert f"rate:user:{identity.key} " in shown.out, shown.err
    explained = await run(*explain, "--json")
    assert explained.json["identity"] == {"kind": identity.kind, "key": identity.key}
    assert (await run(*reset)).out == f"rate:user:{identity.key} is full\n"


async def test_the_table_is_safe_for_a_terminal(store: Redis) -> None:
    keys = [plain_key(user) for user in HOSTILE]
    await published(store, *keys[-3:])
    out = (await run("top", "--limit", "2")).out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert re.search(r"Zo.*  1      0  33\.3 %  +\d\.\d\d ", out)
    assert "Each other user has at most 1 request." in out
    assert len(re.findall(r"^\d+ ", out, re.MULTILINE)) == 3  # two users and the total


async def test_an_empty_table_says_why(store: Redis) -> None:
    assert (await run("top")).out == "0 requests in the last 0 s\n"
    await store.set(f"{{{KEY}}}:top:periods", "x")
    assert "must be a hash" in (await run("top", "--denied")).out


@pytest.mark.parametrize("arguments", [("bucket", "show"), ("bucket", "reset"), ("explain", "--path", "/")])
async def test_a_key_that_no_identity_has_is_refused(arguments: tuple[str, ...]) -> None:
    done = await run(*arguments, "--key", "user:x")
    assert done.status == 2
    assert "'user:x' is not the key of an identity" in done.err
    assert (await run(*arguments, "--key=alice", "--address", "203.0.113.9")).status == 2
