"""Replicas report to a real store, and an operator reads the sums."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.control.control import Control
from ratelimitd.core.model import MICRO, Limit, Verdict
from ratelimitd.core.policy import PolicySet, TierRule
from ratelimitd.core.tiers import TierName
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.telemetry.decision_counts import Series
from ratelimitd.usage.global_bucket import MAX_AGE_S
from ratelimitd.usage.ranges import UsageRange
from ratelimitd.usage.report import MAX_SAMPLES
from tests.core.fakes import FixedPolicies
from tests.delaying_proxy import DelayingProxy, delaying_proxy, port_of
from tests.eventually import eventually
from tests.example_limits import KEY
from tests.usage.reporting_replica import ReportingReplica


@pytest.fixture
def control(store: Redis) -> Control:
    """The control over an empty store."""
    return Control(store, load({}, {}))


async def test_reports_of_replicas_add_up(store: Redis, control: Control) -> None:
    replicas = [ReportingReplica(store) for _ in range(3)]
    for replica in replicas:
        replica.decide(5)
        replica.decide(2, denied_by=TierName.USER)
        replica.decide(1, denied_by=TierName.USER, local=True)
        replica.count(Series(Verdict.EXEMPT, "", "/b", "local"), 4)
        replica.count(Series(Verdict.BLOCKED, "", "/b", "local"), 3)
        replica.count(Series(Verdict.DENIED, TierName.USER, "/a", "degraded"), 1)
        replica.count(Series(Verdict.UNDECIDED, "", "", "store"), 6)
        replica.calls.seconds.observe(150_000)
        await replica.report()
    for over in UsageRange:
        usage = await control.usage(over)
        for totals in (usage.totals, usage.cumulative):
            assert (totals.allowed, totals.denied, totals.undecided) == (15, 12, 18)
            assert (totals.exempt, totals.blocked, totals.local) == (12, 9, 3 + 12 + 9)
            assert totals.degraded == 3
            assert totals.denied_by == {TierName.GLOBAL: 0, TierName.USER: 12, TierName.USER_API: 0}
        assert [(one.api, one.allowed, one.denied) for one in usage.apis] == [("/a", 15, 12)]
        assert max(step.replicas for step in usage.steps) == 3
        assert 0.0001 < (usage.store_p50_s or 0) < 0.0002
        assert usage.warnings == []


async def test_a_report_adds_only_what_is_new(store: Redis, control: Control) -> None:
    replica = ReportingReplica(store)
    for _ in range(3):
        replica.decide(2)
        replica.calls.seconds.observe(1)
        await replica.report()
    await replica.report()
    usage = await control.usage(UsageRange.HOUR)
    assert (usage.totals.allowed, usage.cumulative.allowed) == (6, 6)
    assert usage.store_p99_s == pytest.approx(0.00005, rel=0.02)


async def test_a_replica_counts_once_in_each_bucket(store: Redis) -> None:
    """Even if it decides nothing."""
    replica = ReportingReplica(store)
    for _ in range(24):
        await replica.report()
    counted = []
    for key in await store.keys(f"{{{KEY}}}:usage:1*"):
        found: Any = await store.hgetall(key)
        counted += [value for name, value in found.items() if name.endswith(b"r")]
    assert set(counted) == {b"1"}
    assert len(counted) in {2, 3, 4}  # one of 10 s and one of a minute, unless one of them has just ended


async def test_the_tokens_of_the_global_bucket_are_unknown_once_the_reading_is_old(store: Redis) -> None:
    limited = FixedPolicies(PolicySet("p", {TierName.GLOBAL: TierRule(Limit(500, 1))}))
    replica = ReportingReplica(store, policies=limited)
    await replica.report()
    replica.now_s += MAX_AGE_S
    assert replica.bucket.tokens() == 500
    replica.now_s += 1
    assert replica.bucket.tokens() is None
    await replica.report()
    assert replica.bucket.tokens() == 500


async def test_the_state_has_the_tokens_left_and_the_revision(store: Redis, control: Control) -> None:
    limited = FixedPolicies(PolicySet("p", {TierName.GLOBAL: TierRule(Limit(500, 0.000001))}))
    replica = ReportingReplica(store, policies=limited, number=12)
    assert replica.bucket.tokens() is None
    await replica.report()
    assert replica.bucket.tokens() == 500
    seconds, _ = await store.time()
    await store.hset("rate:global", mapping={"tokens": "123.5", "last": str(seconds * MICRO)})
    await replica.report()
    assert replica.bucket.tokens() == pytest.approx(123.5, abs=0.001)
    step = [step for step in (await control.usage(UsageRange.QUARTER_HOUR)).steps if step.revision][-1]
    assert (step.revision, step.global_capacity) == (12, 500)
    assert step.global_tokens == pytest.approx(123.5 * MICRO, abs=1000)


@pytest.mark.parametrize("value", ["a string", "future", "damaged"])
async def test_a_global_bucket_in_an_unusual_state_is_reported(store: Redis, value: str) -> None:
    seconds, _ = await store.time()
    if value == "a string":
        await store.set("rate:global", value)
    else:
        last = (seconds + 1000) * MICRO if value == "future" else "x"
        await store.hset("rate:global", mapping={"tokens": "3", "last": last})
    replica = ReportingReplica(store)
    await replica.report()
    assert replica.bucket.tokens() == (3 if value == "future" else 10)


@pytest.mark.parametrize("in_shadow", ["tier", "policy"])
async def test_the_global_bucket_in_shadow_is_the_one_that_is_charged(store: Redis, in_shadow: str) -> None:
    tiers = {TierName.GLOBAL: TierRule(Limit(10, 0.000001), shadow=in_shadow == "tier")}
    policies = FixedPolicies(PolicySet("p", tiers, shadow=in_shadow == "policy"))
    seconds, _ = await store.time()
    await store.hset("rate:shadow:global", mapping={"tokens": "3", "last": seconds * MICRO})
    replica = ReportingReplica(store, policies=policies)
    await replica.report()
    assert replica.bucket.tokens() == pytest.approx(3, abs=0.001)


async def test_without_the_tier_global_only_the_revision_is_reported(store: Redis, control: Control) -> None:
    replica = ReportingReplica(store, policies=FixedPolicies(PolicySet("p", {})), number=0)
    await replica.report()
    assert replica.bucket.tokens() is None
    (step,) = [step for step in (await control.usage(UsageRange.QUARTER_HOUR)).steps if step.replicas]
    assert (step.revision, step.global_tokens, step.global_capacity) == (0, None, None)


async def test_everything_expires(store: Redis) -> None:
    replica = ReportingReplica(store)
    replica.decide(1)
    await replica.report()
    keys: Any = await store.keys(f"{{{KEY}}}:usage:*")
    kept_s = {
        re.sub(rb"\d{6,}|replica-\d+", b"*", key).split(b":usage:")[1]: await store.ttl(key) for key in keys
    }
    assert {key: -(-left // 60) for key, left in kept_s.items()} == {
        b"10s:*": 24 * 60,
        b"1m:*": 7 * 24 * 60,
        b"apis:1m:*": 75,
        b"apis:30m:*": 7 * 24 * 60 + 120,
        b"names:*": 9 * 24 * 60,
        b"total": 30 * 24 * 60,
        b"added:*": 60,
    }


@asynccontextmanager
async def replica_behind_a_proxy(store_url: str) -> AsyncIterator[tuple[ReportingReplica, DelayingProxy]]:
    """Yields a replica, and the proxy between it and the store."""
    async with (
        delaying_proxy(port_of(store_url)) as proxy,
        open_client(f"redis://127.0.0.1:{proxy.port}/0") as client,
    ):
        yield ReportingReplica(client), proxy


def cut_off(proxy: DelayingProxy) -> None:
    """Makes the store unreachable."""
    proxy.refuses = True
    proxy.cut()


async def test_counts_of_an_outage_are_added_to_their_buckets_later(store_url: str, control: Control) -> None:
    async with replica_behind_a_proxy(store_url) as (replica, proxy):
        cut_off(proxy)
        with capture_logs() as lines:
            for _ in range(60):
                replica.decide(1)
                await replica.report()
        assert [line["event"] for line in lines] == ["usage_report_failed"]
        proxy.refuses = False
        await replica.report()
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert (usage.totals.allowed, usage.cumulative.allowed) == (60, 60)
    counted = [step.allowed for step in usage.steps if step.allowed]
    assert len(counted) in {30, 31}
    assert max(counted) == 2
    assert {step.replicas for step in usage.steps if step.allowed} == {1}
    assert sum(sum(api.per_step) for api in usage.apis) == 60


async def test_a_long_outage_keeps_all_counts_in_limited_memory(store_url: str, control: Control) -> None:
    async with replica_behind_a_proxy(store_url) as (replica, proxy):
        cut_off(proxy)
        for _ in range(MAX_SAMPLES + 50):
            replica.decide(1)
            await replica.report()
        proxy.refuses = False
        await replica.report()
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert usage.totals.allowed == MAX_SAMPLES + 50
    assert max(step.allowed for step in usage.steps) >= 50  # the oldest samples became one


async def test_a_lost_reply_neither_loses_nor_repeats_a_count(store_url: str, control: Control) -> None:
    async with replica_behind_a_proxy(store_url) as (replica, proxy):
        await replica.report()
        replica.decide(3)
        proxy.delay_s = 0.2

        async def added() -> bool:
            return (await control.usage(UsageRange.QUARTER_HOUR)).cumulative.allowed == 3

        report = asyncio.create_task(replica.report())
        await eventually(added, "the store has added the counts")
        proxy.cut()
        await report
        assert replica.usage.is_unanswered()
        proxy.delay_s = 0
        replica.decide(4)
        await replica.report()
        assert not replica.usage.is_unanswered()
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert (usage.cumulative.allowed, usage.totals.allowed) == (7, 7)


async def test_a_store_that_hangs_delays_no_report(store_url: str, control: Control) -> None:
    async with replica_behind_a_proxy(store_url) as (replica, proxy):
        await replica.report()
        proxy.delay_s = 3600
        replica.decide(3)
        with capture_logs() as lines:
            await replica.usage.report(timeout_s=0.01)
        assert [(line["event"], line["reason"]) for line in lines] == [
            ("usage_report_failed", "no answer in time")
        ]
        proxy.delay_s = 0
        proxy.cut()
        await replica.report()
    assert (await control.usage(UsageRange.QUARTER_HOUR)).totals.allowed == 3


async def test_a_defect_ends_no_report_after_it(
    store: Redis, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = ReportingReplica(store, interval_s=0.001)
    replica.decide(3)
    defects = iter([ZeroDivisionError()])

    def totals() -> Any:
        for defect in defects:
            raise defect
        return dict(replica.counts.set)

    monkeypatch.setattr(replica.counts, "totals", totals)

    async def reported() -> bool:
        return (await control.usage(UsageRange.QUARTER_HOUR)).cumulative.allowed == 3

    with capture_logs() as lines:
        async with replica.usage.reporting():
            await eventually(reported, "a report after the defect")
    assert [line["event"] for line in lines] == ["usage_report_defect"]


async def test_the_end_of_reporting_is_a_report(store: Redis, control: Control) -> None:
    replica = ReportingReplica(store, interval_s=3600)
    async with replica.usage.reporting():
        replica.decide(3)
    assert (await control.usage(UsageRange.QUARTER_HOUR)).cumulative.allowed == 3
