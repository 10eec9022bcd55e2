"""Usage over HTTP: ranges, units and hostile names."""

import httpx
import pytest
from redis.asyncio import Redis

from ratelimitd.core.identity import plain_key
from ratelimitd.core.model import Verdict
from ratelimitd.core.tiers import TierName
from tests.usage.examples import HOSTILE
from tests.usage.reporting_replica import ReportingReplica
from tests.usage.test_top_publisher import Replica as CountingReplica

USAGE = "/admin/api/v1/usage"


async def test_usage_has_steps_totals_and_apis(store: Redis, reader: httpx.AsyncClient) -> None:
    replica = ReportingReplica(store)
    replica.decide(3, HOSTILE)
    replica.decide(2, "/b", denied_by=TierName.GLOBAL, local=True)
    await replica.report()
    answer = (await reader.get(USAGE)).json()
    assert (answer["range"], answer["step_s"], len(answer["steps"])) == ("15m", 10, 90)
    assert (
        answer["totals"]
        == answer["cumulative"]
        == {
            "allowed": 3,
            "denied": 2,
            "blocked": 0,
            "exempt": 0,
            "undecided": 0,
            "denied_by": {"global": 2, "user": 0, "user_api": 0},
            "local": 2,
            "degraded": 0,
        }
    )
    assert [(one["api"], one["allowed"], one["denied"]) for one in answer["apis"]] == [
        (HOSTILE, 3, 0),
        ("/b", 0, 2),
    ]
    (step,) = [step for step in answer["steps"] if step["allowed"]]
    assert (step["global_tokens"], step["global_capacity"], step["revision"]) == (10.0, 10, 7)
    assert step["at"].endswith("0.000Z")
    assert answer["warnings"] == []


@pytest.mark.parametrize(("over", "steps"), [("15m", 90), ("1h", 360), ("24h", 288), ("7d", 336)])
async def test_each_range_can_be_requested(reader: httpx.AsyncClient, over: str, steps: int) -> None:
    answer = await reader.get(USAGE, params={"range": over})
    assert (answer.status_code, len(answer.json()["steps"])) == (200, steps)


@pytest.mark.parametrize("query", ["range=1d", "range=", "range=15m&range=x", "ranges=15m"])
async def test_another_range_is_an_error_that_names_the_ranges(reader: httpx.AsyncClient, query: str) -> None:
    answer = await reader.get(f"{USAGE}?{query}")
    assert answer.status_code == 422
    if not query.startswith("ranges"):
        assert "15m" in answer.json()["error"]


async def test_usage_needs_a_key(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get(USAGE)).status_code == 401


async def test_top_users_have_names_keys_and_errors(store: Redis, reader: httpx.AsyncClient) -> None:
    replica = CountingReplica(store)
    replica.decide("a%40b", "a%40b", "=anonymous", verdict=Verdict.DENIED)
    await replica.publisher.publish()
    answer = (await reader.get("/admin/api/v1/top?denied=true")).json()
    assert answer["users"] == [
        {"kind": "header", "key": "a%40b", "name": "a@b", "requests": 2, "error": 0},
        {"kind": "anonymous", "key": "=anonymous", "name": "anonymous", "requests": 1, "error": 0},
    ]
    assert (answer["denied"], answer["total"], answer["error_bound"], answer["warnings"]) == (True, 3, 0, [])
    assert answer["at"].endswith("Z")
    assert (await reader.get("/admin/api/v1/top?denied=perhaps")).status_code == 422


async def test_buckets_and_explain_take_the_key_of_an_identity(
    store: Redis, writer: httpx.AsyncClient
) -> None:
    key = plain_key("long-" * 40)
    await store.hset(f"rate:user:{key}", mapping={"tokens": 1, "last": 0})
    found = (await writer.get("/admin/api/v1/buckets", params={"key": key})).json()
    assert [bucket["key"] for bucket in found["buckets"]] == [f"rate:user:{key}"]
    explained = await writer.post("/admin/api/v1/explain", json={"path": "/", "key": key})
    assert explained.json()["identity"] == {"kind": "header", "key": key}
    assert (await writer.delete("/admin/api/v1/buckets", params={"key": key})).json()["deleted"]
    for query in ({"key": "*"}, {"key": key, "user": "alice"}):
        assert (await writer.get("/admin/api/v1/buckets", params=query)).status_code == 422
