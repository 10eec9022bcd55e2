"""`ratelimitd explain`, `check` and `bucket`, on a real store."""

import asyncio
import re

import pytest
from redis.asyncio import Redis

from ratelimitd import settings
from ratelimitd.app import run_service
from ratelimitd.cli.exits import Exit
from ratelimitd.process.loopback import free_port
from tests.example_limits import NO_REFILL, limits_json
from tests.system.command import apply, on_a_terminal, run

pytestmark = pytest.mark.usefixtures("operator")


async def test_an_allowed_request_is_explained_tier_by_tier(store: Redis) -> None:
    await apply()
    done = await run("explain", "--user", "u1", "--path", "/api/users/7/orders?q=1", "--method", "post")
    assert done.status == 0
    assert done.out.startswith("allowed: every tier can pay 3\n")
    assert re.search(r"^identity +u1 \(by header\) *$", done.out, re.MULTILINE)
    assert re.search(r"^route +routes\[0\] *$", done.out, re.MULTILINE)
    assert re.search(r"^changes +denied after 1 such request at once *$", done.out, re.MULTILINE)
    assert re.search(r"^user_api +4 +4 +1e-06/s +0 s +rate:user:u1:api:orders *$", done.out, re.MULTILINE)
    assert re.search(r"^user \(shadow\) +100 +100 +5/s +0 s +rate:shadow:user:u1 *$", done.out, re.MULTILINE)
    assert await store.keys("rate:*") == []


async def test_a_denied_request_ends_with_6(store: Redis) -> None:
    await apply(limits_json(user_rate=3))
    seconds, micros = await store.time()
    now_us = seconds * 1_000_000 + micros
    await store.hset("rate:user:u1", mapping={"tokens": 0, "last": now_us + 60_000_000})
    done = await run("explain", "--user", "u1", "--path", "/")
    assert done.status == Exit.DENIED
    assert done.out.startswith("denied: user holds 0.000 tokens and the request costs 1\n")
    assert re.search(
        r"^changes +allowed in (1 min 1 s|1 min|5\d\.\d+ s), if no other request spends tokens meanwhile *$",
        done.out,
        re.MULTILINE,
    )
    answer = (await run("explain", "--user", "u1", "--path", "/", "--json")).json
    assert (answer["outcome"], answer["denied_by"]) == ("denied", "user")
    assert 50 < answer["retry_after_s"] <= 60.333335
    user = answer["tiers"][1]
    assert user["retry_after_s"] - user["no_refill_for_s"] == pytest.approx(1 / 3, abs=1e-5)
    assert re.search(
        r"^rate:user:u1 gets no refill for .*, because its last is in the future$", done.out, re.MULTILINE
    )


async def test_overrides_are_explained() -> None:
    await apply()
    blocked = await run("explain", "--user", "mallory", "--path", "/")
    assert blocked.status == Exit.DENIED
    assert blocked.out.startswith("blocked: overrides.users.mallory blocks it\n")
    assert re.search(r"^changes +only with the policy *$", blocked.out, re.MULTILINE)
    gold = (await run("explain", "--path", "/", "--header", "X-Plan=gold", "--json")).json
    assert gold["override"] == "overrides.headers.x-plan.gold"
    exempt = (await run("explain", "--path", "/", "--context", "plan=gold", "--json")).json
    assert (exempt["outcome"], exempt["override"]) == ("exempt", "overrides.context.plan.gold")
    by_address = (await run("explain", "--path", "/", "--address", "203.0.113.9", "--json")).json
    assert by_address["identity"] == {"kind": "address", "key": "ip=203.0.113.9"}


async def test_a_repeated_header_is_joined_as_envoy_does() -> None:
    """The joined value identifies no user."""
    headers = ("--header", "x-user-id=a", "--header", "X-User-Id=b")
    done = await run("explain", "--path", "/", *headers, "--json")
    assert done.json["identity"]["kind"] == "anonymous"


async def test_bucket_show_prints_the_current_state(store: Redis) -> None:
    await apply()
    last = 1_700_000_000_123_456
    await store.hset("rate:shadow:user:u1", mapping={"tokens": 7.5, "last": last})
    await store.hset("rate:user:u1:api:orders", mapping={"tokens": 2, "last": last})
    await store.hset("rate:user:u2", mapping={"tokens": 1, "last": last})
    done = await run("bucket", "show", "u1")
    assert done.status == 0
    rows = [row.split() for row in done.out.splitlines()][1:]
    assert rows == [
        ["rate:shadow:user:u1", "100", "100", "5/s", "2023-11-14T22:13:20.123Z"],
        ["rate:user:u1:api:orders", "4", "4", "1e-06/s", "2023-11-14T22:13:20.123Z"],
    ]
    buckets = (await run("bucket", "show", "u1", "--json")).json["buckets"]
    assert [(one["tier"], one["api"], one["shadow"]) for one in buckets] == [
        ("user", None, True),
        ("user_api", "orders", False),
    ]


async def test_a_cost_above_a_capacity_changes_only_with_the_policy() -> None:
    await apply(
        "tiers: {global: off, user: {capacity: 9, rate: 1/s}, user_api: off}\n"
        "routes: [{path: /a, cost: 3}]\n"
        "overrides: {users: {bob: {user: {capacity: 2, rate: 1/s}}}}"
    )
    done = await run("explain", "--user", "bob", "--path", "/a")
    assert done.out.startswith("denied: user has a capacity of 2 and the request costs 3\n")
    assert re.search(r"^changes +only with the policy *$", done.out, re.MULTILINE)
    assert re.search(r"^user .* never +rate:user:bob *$", done.out, re.MULTILINE)
    explained = (await run("explain", "--user", "bob", "--path", "/a", "--json")).json
    assert (explained["retry_after_s"], explained["tiers"][0]["retry_after_s"]) == (None, None)


async def test_a_key_of_another_type_is_shown_explained_and_reset(store: Redis) -> None:
    await apply()
    await store.sadd("rate:user:u1:api:orders", "x")
    shown = await run("bucket", "show", "u1")
    rows = [row.split() for row in shown.out.splitlines()]
    assert rows[1] == ["rate:user:u1:api:orders", "4", "4", "1e-06/s", "-"]
    sentence = (
        "rate:user:u1:api:orders holds a value that is not a bucket (type set); it counts as full, and the "
        "next request that is charged to it makes it a bucket"
    )
    assert sentence in " ".join(shown.out.split())
    request = ("--user", "u1", "--path", "/api/users/7/orders", "--method", "post")
    explained = await run("explain", *request)
    assert explained.status == 0
    assert sentence in " ".join(explained.out.split())
    assert (await run("bucket", "reset", "u1")).out == "rate:user:u1:api:orders is full\n"
    assert await store.keys("rate:*") == []


async def test_a_user_without_buckets_gets_a_sentence() -> None:
    assert (
        await run("bucket", "show", "u1")
    ).out == "u1 has no bucket in the store, so all of them are full\n"
    assert (await run("bucket", "show", "--address", "::1", "--json")).json == {"buckets": []}
    assert (await run("bucket", "reset", "u1")).out == (
        "u1 has no bucket in the store, so all of them are full already\n"
    )


async def test_reset_deletes_only_the_buckets_of_the_subject(store: Redis) -> None:
    for key in ("user:u1", "user:u1:api:/x", "user:u11", "user:ip=203.0.113.9"):
        await store.hset(f"rate:{key}", mapping={"tokens": 0, "last": 1})
    done = await run("bucket", "reset", "u1")
    assert (done.status, done.out) == (0, "rate:user:u1 is full\nrate:user:u1:api:/x is full\n")
    reset = await run("bucket", "reset", "--address", "203.0.113.9", "--json")
    assert reset.json == {"deleted": ["rate:user:ip=203.0.113.9"]}
    assert await store.keys("rate:*") == [b"rate:user:u11"]


async def test_reset_asks_for_confirmation_on_a_terminal(store: Redis) -> None:
    await store.hset("rate:user:u1", mapping={"tokens": 0, "last": 1})
    status, screen = await asyncio.to_thread(on_a_terminal, "bucket", "reset", "u1", typed="n\n")
    assert status == Exit.FAILED
    assert "Make all buckets of u1 full? [y/N]" in screen
    assert await store.exists("rate:user:u1")
    assert (await asyncio.to_thread(on_a_terminal, "bucket", "reset", "u1", "--yes"))[0] == 0
    assert not await store.exists("rate:user:u1")


async def test_check_asks_a_running_service(store_url: str, store: Redis) -> None:
    await apply(limits_json(user_api_capacity=1, **NO_REFILL))
    flags = {"redis_url": store_url, "listen": "127.0.0.1:0"}
    async with run_service(settings.load({}, flags=flags | {"metrics_listen": "off"}), "grpcio") as listener:
        ask = ["check", "--user", "u1", "--path", "/api/x", "--target", str(listener.address)]
        ask += ["--timeout-s", "10"]
        dry = await run(*ask, "--dry-run")
        assert (dry.status, dry.out.splitlines()[0]) == (0, "allowed (OK)")
        assert await store.keys("rate:user:u1*") == []
        allowed = (await run(*ask, "--json", "--context", "api=a")).json
        assert (allowed["outcome"], allowed["metadata"]["outcome"]) == ("allowed", "allowed")
        assert await store.exists("rate:user:u1:api:a")
        denied = await run(*ask, "--context", "api=a")
    assert denied.status == Exit.DENIED
    lines = denied.out.splitlines()
    assert lines[:2] == ["denied, HTTP 429 (RESOURCE_EXHAUSTED)", '{"error":"rate limit exceeded"}']
    assert re.search(r"^x-ratelimit-tier +user_api *$", denied.out, re.MULTILINE)


@pytest.mark.parametrize(("answer", "status"), [("deny", 1), ("envoy", 1), ("allow", 0)])
async def test_an_undecided_check_does_not_end_with_denied(answer: str, status: int) -> None:
    """An undecided request says nothing about limits."""
    flags = {"redis_url": "unix:///nowhere.sock", "listen": "127.0.0.1:0", "on_store_error": answer}
    async with run_service(settings.load({}, flags=flags | {"metrics_listen": "off"}), "grpcio") as listener:
        done = await run("check", "--path", "/", "--target", str(listener.address), "--timeout-s", "10")
    assert done.status == status


async def test_check_asks_the_service_at_the_setting_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` needs no store, so the setting redis_url does not matter."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RATELIMITD_LISTEN", address)
    monkeypatch.setenv("RATELIMITD_REDIS_URL", "embedded")
    done = await run("check", "--path", "/")
    assert (done.status, done.err) == (1, f"ratelimitd: {address} does not answer: UNAVAILABLE\n")
