"""Metrics: values from the store at each scrape, in a limited number of series."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from ratelimitd.admin.metrics import MAX_NAMES
from ratelimitd.control.control import Control
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.telemetry.label_names import bounded
from ratelimitd.usage.layout import total_key
from tests.admin.conftest import run_replica
from tests.example_limits import KEY, limits_json
from tests.metrics_document import described, documented
from tests.replicas import replica
from tests.usage.reporting_replica import ReportingReplica

Series = dict[tuple[str, str], float]


async def scraped(client: httpx.AsyncClient) -> Series:
    """Scrapes the metrics. Returns each value by name and label, as the parser of Prometheus reads them."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


async def test_an_empty_store_has_no_policy_and_no_replicas(nobody: httpx.AsyncClient) -> None:
    assert await scraped(nobody) == {
        ("ratelimitd_store_up", ""): 1,
        ("ratelimitd_admin_refused_keys_total", ""): 0,
        ("ratelimitd_policy_newest_revision", ""): 0,
        ("ratelimitd_policy_refused", ""): 0,
        ("ratelimitd_policy_lost", ""): 0,
        ("ratelimitd_replicas", ""): 0,
        ("ratelimitd_replicas_silent", ""): 0,
        ("ratelimitd_replicas_behind", ""): 0,
        **{
            ("ratelimitd_usage_decisions_total", labels): 0
            for labels in ("allowed", "deniedglobal", "denieduser", "denieduser_api", "blocked", "exempt")
        },
        ("ratelimitd_usage_decisions_total", "undecided"): 0,
    }


async def test_policy_replicas_and_shadow_denials_are_counted(
    store: Redis, control: Control, nobody: httpx.AsyncClient
) -> None:
    await control.apply(limits_json(), author="alice", note="", expected=Expected(0))
    await store.set(KEY, "{")
    await run_replica(store, "a", 1)
    await run_replica(store, "b", 0)
    per_user = {"overrides.users.alice": 4, "overrides.users.a.b": 5}
    await Replicas(store, KEY).add_shadow(1, {"tiers.user": 3, "routes[0]": 2} | per_user)
    series = await scraped(nobody)
    assert series["ratelimitd_policy_newest_revision", ""] == 1
    assert series["ratelimitd_policy_refused", ""] == 1
    assert series["ratelimitd_replicas", ""] == 2
    assert series["ratelimitd_replicas_behind", ""] == 1
    assert series["ratelimitd_replica_revision", "a"] == 1
    assert series["ratelimitd_replica_revision", "b"] == 0
    assert series["ratelimitd_policy_shadow_denied_total", "tiers.user"] == 3
    assert series["ratelimitd_policy_shadow_denied_total", "routes[0]"] == 2
    assert series["ratelimitd_policy_shadow_denied_total", "overrides.users"] == 9
    assert not any("alice" in name for _, name in series)


async def test_decisions_of_all_replicas_are_counted(store: Redis, nobody: httpx.AsyncClient) -> None:
    for times in (2, 3):
        replica = ReportingReplica(store)
        replica.decide(times)
        replica.decide(times, denied_by=TierName.USER)
        await replica.report()
    series = await scraped(nobody)
    assert series["ratelimitd_usage_decisions_total", "allowed"] == 5
    assert series["ratelimitd_usage_decisions_total", "denieduser"] == 5
    await store.hset(total_key(KEY), "allowed", "damaged")
    assert not any("usage" in name for name, _ in await scraped(nobody))


async def test_a_silent_replica_counts_apart(store: Redis, nobody: httpx.AsyncClient) -> None:
    await run_replica(store, "a", 0)
    seconds, _ = await store.time()
    silent = replica("b", seen_us=(seconds - 20) * MICRO)
    await store.hset(f"{{{KEY}}}:replicas", "b", silent.model_dump_json(by_alias=True))
    series = await scraped(nobody)
    assert (series["ratelimitd_replicas", ""], series["ratelimitd_replicas_silent", ""]) == (1, 1)


async def test_unreadable_addresses_are_counted_for_each_replica(
    store: Redis, nobody: httpx.AsyncClient
) -> None:
    seconds, _ = await store.time()
    for name, count in (("a", 7), ("b", 0)):
        entry = replica(name, seen_us=seconds * MICRO, unreadable_addresses=count)
        await Replicas(store, KEY).publish(entry)
    series = await scraped(nobody)
    assert series["ratelimitd_unreadable_addresses_total", "a"] == 7
    assert series["ratelimitd_unreadable_addresses_total", "b"] == 0


async def test_wrong_keys_are_counted(nobody: httpx.AsyncClient) -> None:
    for path in ("/admin/config", "/admin/api/v1/status"):
        await nobody.get(path, headers={"x-admin-key": "wrong"})
        await nobody.get(path)
    assert (await scraped(nobody))["ratelimitd_admin_refused_keys_total", ""] == 2


async def test_a_store_outage_is_a_metric(storeless: httpx.AsyncClient) -> None:
    assert await scraped(storeless) == {
        ("ratelimitd_store_up", ""): 0,
        ("ratelimitd_admin_refused_keys_total", ""): 0,
    }


async def test_a_store_with_damaged_revisions_is_up(store: Redis, nobody: httpx.AsyncClient) -> None:
    await store.hset("{rate_limit:config}:revisions", mapping={"head": "7", "7": "damaged", "stored": ""})
    series = await scraped(nobody)
    assert series["ratelimitd_store_up", ""] == 1
    assert series["ratelimitd_policy_newest_revision", ""] == 7


def test_shadow_denials_have_at_most_100_series() -> None:
    """The smaller counts are summed as `other`, even if the policy uses this name itself."""
    counts = {f"overrides.users.{n:03}": n for n in range(1, 151)} | {"other": 1000}
    found = bounded(counts, MAX_NAMES)
    assert len(found) == MAX_NAMES
    assert sum(found.values()) == sum(counts.values())
    assert found["overrides.users.150"] == 150
    assert "overrides.users.051" not in found
    assert bounded({"a": 1}, MAX_NAMES) == {"a": 1}


async def test_the_document_lists_the_metrics_of_the_admin_service(
    store: Redis, control: Control, nobody: httpx.AsyncClient
) -> None:
    """Compares name, type and labels, both ways."""
    await control.apply(limits_json(), author="alice", note="", expected=Expected(0))
    await run_replica(store, "a", 1)
    await Replicas(store, KEY).add_shadow(1, {"tiers.user": 3})
    assert described((await nobody.get("/metrics")).text) == documented("Admin service")


def test_no_metric_is_both_a_replica_and_an_admin_metric() -> None:
    replicas, admin = (
        {metric.name for metric in documented(section)} for section in ("Replicas", "Admin service")
    )
    assert replicas & admin == set()
