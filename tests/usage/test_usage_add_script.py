"""`lua/usage_add.lua` as shipped, on a real store: hostile names, bounds, and refused writes."""

import re
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.control.control import Control
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.telemetry.decision_counts import MAX_APIS
from ratelimitd.usage import layout
from ratelimitd.usage.addition import MAX_FIELDS, Additions
from ratelimitd.usage.layout import APIS_COARSE, APIS_FINE, FINE, MAX_NAMES, OTHER_ID, api_id
from ratelimitd.usage.ranges import UsageRange
from ratelimitd.usage.sample import Sample
from tests.example_limits import KEY
from tests.redis_server import redis_server
from tests.usage.examples import HOSTILE
from tests.usage.reporting_replica import ReportingReplica


@pytest.fixture
def control(store: Redis) -> Control:
    """The control over an empty store."""
    return Control(store, load({}, {}))


async def test_at_most_200_apis_of_all_replicas_have_a_name(store: Redis, control: Control) -> None:
    replicas = [ReportingReplica(store) for _ in range(3)]
    for number, replica in enumerate(replicas):
        for api in range(150):
            replica.decide(1, f"/{number}/{api}")
        await replica.report()
    usage = await control.usage(UsageRange.HOUR)
    assert len(usage.apis) == MAX_NAMES + 1
    assert usage.apis[0].api == OTHER_ID
    assert usage.apis[0].allowed == 3 * 150 - MAX_NAMES
    for level in (APIS_FINE, APIS_COARSE):
        (key,) = await store.keys(f"{{{KEY}}}:usage:{level.name}:*")
        assert await store.object("encoding", key) in {b"listpack", b"ziplist"}


async def test_names_of_policies_that_change_for_weeks_expire(store: Redis) -> None:
    """A day has room for its own names, and the names of earlier days expire."""
    seconds, _ = await store.time()
    await store.hset(layout.names_key(KEY, seconds - layout.DAY_S), mapping={"#": MAX_NAMES})
    replica = ReportingReplica(store)
    replica.decide(1, "/new")
    await replica.report()
    names: Any = await store.hgetall(layout.names_key(KEY, seconds))
    assert names == {b"#": b"1", api_id("/new").encode(): b"/new"}


@pytest.mark.parametrize(
    "name", [HOSTILE, "", "other", "#", "x" * 10_000, "\U0001f600" * 100, "\udcff", "a\0b"]
)
async def test_any_name_is_counted(store: Redis, control: Control, name: str) -> None:
    replica = ReportingReplica(store)
    replica.decide(2, name)
    replica.decide(1, "/a")
    await replica.report()
    (api, *_) = (await control.usage(UsageRange.HOUR)).apis
    assert api.allowed == 2
    if len(name) < 100 and name.isprintable():
        assert api.api == (name or OTHER_ID)
    assert len(api.api.encode()) <= layout.MAX_NAME_BYTES


async def test_a_names_key_of_another_type_makes_all_apis_other(store: Redis, control: Control) -> None:
    seconds, _ = await store.time()
    await store.set(layout.names_key(KEY, seconds), "x")
    replica = ReportingReplica(store)
    replica.decide(2, "/a")
    with capture_logs() as lines:
        await replica.report()
        await replica.report()
    assert [line["event"] for line in lines] == ["usage_report_failed"]
    usage = await control.usage(UsageRange.HOUR)
    assert [(one.api, one.allowed) for one in usage.apis] == [(OTHER_ID, 2)]
    assert usage.totals.allowed == 2
    (key,) = await store.keys(f"{{{KEY}}}:usage:{APIS_FINE.name}:*")
    assert await store.hgetall(key) == {b"othera": b"2"}  # ids without names would fill the hash


async def test_a_damaged_number_of_names_leaves_no_room_for_more(store: Redis, control: Control) -> None:
    seconds, _ = await store.time()
    await store.hset(layout.names_key(KEY, seconds), "#", "many")
    replica = ReportingReplica(store)
    replica.decide(2, "/a")
    await replica.report()
    assert await store.hgetall(layout.names_key(KEY, seconds)) == {b"#": b"many"}
    assert [one.api for one in (await control.usage(UsageRange.HOUR)).apis] == [OTHER_ID]


async def test_a_key_of_another_type_keeps_no_other_count_away(store: Redis, control: Control) -> None:
    """Its own counts are lost. The log says so once, and again after a report that worked."""
    seconds, _ = await store.time()
    for key in (FINE.key(KEY, seconds), FINE.key(KEY, seconds - 10), layout.total_key(KEY)):
        await store.set(key, "x")
    replica = ReportingReplica(store)
    with capture_logs() as lines:
        for _ in range(3):
            replica.decide(1)
            await replica.report()
    assert [(line["event"], "WRONGTYPE" in line["reason"]) for line in lines] == [
        ("usage_report_failed", True)
    ]
    assert (await control.usage(UsageRange.DAY)).totals.allowed == 3
    assert not replica.usage.is_unanswered()


async def test_a_damaged_number_keeps_no_other_count_away(store: Redis, control: Control) -> None:
    await store.hset(layout.total_key(KEY), mapping={"allowed": "many", "denied user": 2**63 - 1})
    replica = ReportingReplica(store)
    replica.decide(1)
    await replica.report()
    assert (await control.usage(UsageRange.QUARTER_HOUR)).totals.allowed == 1


async def test_an_emptied_store_gets_names_again(store: Redis, control: Control) -> None:
    replica = ReportingReplica(store)
    for _ in range(2):
        replica.decide(1, "/a")
        await replica.report()
        usage = await control.usage(UsageRange.HOUR)
        assert [(one.api, one.allowed) for one in usage.apis] == [("/a", 1)]
        await store.flushall()


async def test_deployments_with_other_config_keys_share_no_key() -> None:
    sample = Sample(0)
    sample.counts["a"] = sample.apis["/a", layout.API_ALLOWED] = 1
    (call,) = Additions("a:b", "r").of([(1_800_000_000, sample)], "1", 1_800_000_000)
    assert len(call.keys) == 7
    assert all(key.startswith("{a:b}:usage:") for key in call.keys)


async def test_a_call_adds_a_bounded_number_of_fields() -> None:
    sample = Sample(0)
    for number, code in product(range(MAX_APIS), (layout.API_ALLOWED, layout.API_DENIED)):
        sample.apis[f"/{number}", code] = 1
    calls = list(Additions(KEY, "r").of([(1_800_000_000, sample)], "1", 1_800_000_000))
    assert len(calls) == -(-(MAX_APIS * 4 + 4) // MAX_FIELDS)
    assert max(len(call.keys) for call in calls) <= 6
    numbers = [call.arguments[0] for call in calls]
    assert numbers == list(range(1, len(calls) + 1))


@pytest.fixture
async def server() -> AsyncIterator[tuple[str, Redis]]:
    """Runs a Redis of its own; yields its URL and a client that may do everything."""
    async with redis_server() as (address, client):
        yield f"redis://{address}/0", client


async def refuse_memory(client: Redis) -> None:
    """Makes the store refuse writes, because its memory is full."""
    await client.config_set("maxmemory", "1")


async def refuse_as_replica(client: Redis) -> None:
    """Makes the store refuse writes, because it is a replica."""
    await client.replicaof("127.0.0.1", "1")


async def take_writes(client: Redis) -> None:
    """Makes the store take writes again."""
    await client.config_set("maxmemory", "0")
    await client.replicaof("NO", "ONE")


@pytest.mark.parametrize(("refuse", "code"), [(refuse_memory, "OOM"), (refuse_as_replica, "READONLY")])
async def test_counts_wait_while_the_store_refuses_writes(
    server: tuple[str, Redis], refuse: Any, code: str
) -> None:
    url, admin = server
    async with open_client(url) as client:
        replica = ReportingReplica(client)
        replica.decide(1)
        await replica.report()
        await refuse(admin)
        with capture_logs() as lines:
            for _ in range(5):
                replica.decide(1)
                await replica.report()
        assert [line["event"] for line in lines] == ["usage_report_failed"]
        assert code in lines[0]["reason"]
        control = Control(client, load({}, {}))
        assert (await control.usage(UsageRange.QUARTER_HOUR)).totals.allowed == 1
        await take_writes(admin)
        await replica.report()
        usage = await control.usage(UsageRange.QUARTER_HOUR)
        assert (usage.totals.allowed, usage.cumulative.allowed) == (6, 6)


@pytest.mark.parametrize("missing", ["-hincrby", "-set", "-evalsha", "resetkeys ~rate:*"])
async def test_a_missing_permission_loses_counts_but_repeats_none(
    server: tuple[str, Redis], missing: str
) -> None:
    url, admin = server
    everything = ("ACL", "SETUSER", "narrow", "on", ">x", "~*", "+@all")
    await admin.execute_command(*everything)  # type: ignore[no-untyped-call] # it is untyped
    async with open_client(url.replace("redis://", "redis://narrow:x@")) as client:
        replica = ReportingReplica(client)
        replica.decide(1)
        await replica.report()
        await admin.execute_command("ACL", "SETUSER", "narrow", *missing.split())  # type: ignore[no-untyped-call] # it is untyped
        with capture_logs() as lines:
            for _ in range(3):
                replica.decide(1)
                await replica.report()
        assert [line["event"] for line in lines] == ["usage_report_failed"]
        assert re.search("NOPERM|can't run|ACL failure", lines[0]["reason"])
        await admin.execute_command(*everything)  # type: ignore[no-untyped-call] # it is untyped
        replica.decide(1)
        await replica.report()
    cumulative = (await Control(admin, load({}, {})).usage(UsageRange.QUARTER_HOUR)).cumulative
    assert cumulative.allowed == (2 if missing == "-hincrby" else 5)
