"""Usage over HTTP: ranges, units and hostile names."""

import httpx
import pytest
from redis.asyncio import Redis

from ratelimitd.core.tiers import TierName
from tests.usage.examples import HOSTILE
from tests.usage.reporting_replica import ReportingReplica

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
