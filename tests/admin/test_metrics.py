"""Metrics: what the store says at the scrape, in series whose number is bounded."""

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from ratelimitd.admin.metrics import MAX_NAMES, bounded
from ratelimitd.rollout.replicas import Replicas
from tests.admin.conftest import run_replica
from tests.limits import KEY, limits_json

Series = dict[tuple[str, str], float]


async def scraped(client: httpx.AsyncClient) -> Series:
    """Each series by its name and its label's value, read by Prometheus' own parser."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


async def test_a_fresh_store_has_no_policy_and_no_replicas(nobody: httpx.AsyncClient) -> None:
    """These are all the series that there are then."""
    assert await scraped(nobody) == {
        ("ratelimitd_store_up", ""): 1,
        ("ratelimitd_admin_refused_keys_total", ""): 0,
        ("ratelimitd_policy_revision", ""): 0,
        ("ratelimitd_policy_refused", ""): 0,
        ("ratelimitd_replicas", ""): 0,
        ("ratelimitd_replicas_behind", ""): 0,
    }


async def test_policies_replicas_and_shadows_are_counted(store: Redis, nobody: httpx.AsyncClient) -> None:
    """A foreign write that is no policy is seen as refused."""
    await store.set(KEY, limits_json())
    await scraped(nobody)
    await store.set(KEY, "{")
    await run_replica(store, "a", 1)
    await run_replica(store, "b", 0)
    people = {"overrides.users.alice": 4, "overrides.users.a.b": 5}
    await Replicas(store, KEY).add_shadow(1, {"tiers.user": 3, "routes[0]": 2} | people)
    series = await scraped(nobody)
    assert series["ratelimitd_policy_revision", ""] == 1
    assert series["ratelimitd_policy_refused", ""] == 1
    assert series["ratelimitd_replicas", ""] == 2
    assert series["ratelimitd_replicas_behind", ""] == 1
    assert series["ratelimitd_replica_revision", "a"] == 1
    assert series["ratelimitd_replica_revision", "b"] == 0
    assert series["ratelimitd_shadow_denied_total", "tiers.user"] == 3
    assert series["ratelimitd_shadow_denied_total", "routes[0]"] == 2
    assert series["ratelimitd_shadow_denied_total", "overrides.users"] == 9
    assert not any("alice" in name for _, name in series)


async def test_wrong_keys_are_counted(nobody: httpx.AsyncClient) -> None:
    """Those of /admin/config too; a missing key is none."""
    for path in ("/admin/config", "/admin/api/v1/status"):
        await nobody.get(path, headers={"x-admin-key": "wrong"})
        await nobody.get(path)
    assert (await scraped(nobody))["ratelimitd_admin_refused_keys_total", ""] == 2


async def test_the_store_away_is_a_value(storeless: httpx.AsyncClient) -> None:
    """And nothing is told that nobody knows."""
    assert await scraped(storeless) == {
        ("ratelimitd_store_up", ""): 0,
        ("ratelimitd_admin_refused_keys_total", ""): 0,
    }


async def test_a_store_that_holds_nonsense_is_up(store: Redis, nobody: httpx.AsyncClient) -> None:
    """A damaged revision is no reason to lose the other series."""
    await store.hset("{rate_limit:config}:revisions", mapping={"head": "7", "7": "damaged", "stored": ""})
    series = await scraped(nobody)
    assert series["ratelimitd_store_up", ""] == 1
    assert series["ratelimitd_policy_revision", ""] == 7


def test_shadows_have_a_hundred_series_at_most() -> None:
    """Those that count most keep their names; the rest are summed, with one that is called so itself."""
    counts = {f"overrides.users.{n:03}": n for n in range(1, 151)} | {"other": 1000}
    found = bounded(counts)
    assert len(found) == MAX_NAMES
    assert sum(found.values()) == sum(counts.values())
    assert found["overrides.users.150"] == 150
    assert "overrides.users.051" not in found
    assert bounded({"a": 1}) == {"a": 1}
