"""The seed's limits, how to see which ones a replica has in force, and how to count answers."""

import json
import math
from collections.abc import Iterable

import grpc
import httpx

from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.translate import SERVICE
from tests.waiting import eventually

KEY = "rate_limit:config"
SEED: dict[str, float] = {
    "global_capacity": 10,
    "global_rate": 1,
    "user_capacity": 5,
    "user_rate": 1,
    "user_api_capacity": 3,
    "user_api_rate": 1,
}
STILL = {"global_rate": 0.000001, "user_rate": 0.000001, "user_api_rate": 0.000001}
"""Rates at which no token comes back during a test, so that counts are exact."""


def limits_json(**changes: object) -> str:
    """The seed's JSON with changes; None leaves a field out."""
    return json.dumps({key: value for key, value in (SEED | changes).items() if value is not None})


async def until_in_force(limits: str, replicas: Iterable[str]) -> None:
    """Every replica answers with these limits. Costs the user `probe` a token or more."""
    wanted = json.loads(limits)
    expected = ", ".join(_policy_item(tier, wanted) for tier in ("global", "user", "user_api"))

    async def in_force() -> bool:
        return all([await _policy_field(replica) == expected for replica in replicas])

    await eventually(in_force, f"limits {limits} on every replica")


def _policy_item(tier: str, limits: dict[str, float]) -> str:
    capacity, rate = limits[f"{tier}_capacity"], limits[f"{tier}_rate"]
    return f'"{tier}";q={capacity};w={math.ceil(round(capacity / rate, 6))}'


async def _policy_field(target: str) -> str:
    request = CheckRequest()
    request.attributes.request.http.headers["x-user-id"] = "probe"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        answer = await call(request, timeout=5)
    options = [*answer.ok_response.response_headers_to_add, *answer.denied_response.headers]
    return next((o.header.value for o in options if o.header.key == "ratelimit-policy"), "")


def statuses(replies: list[httpx.Response]) -> dict[int, int]:
    """How many of each status."""
    found = [reply.status_code for reply in replies]
    return {status: found.count(status) for status in sorted(set(found))}


def assert_one_bucket(replies: list[httpx.Response], tokens: int) -> None:
    """As many passed as there were tokens: no race between replicas gave one away or lost one.

    On a busy machine a decision may come after its deadline. It is then 503 and may have taken its token.
    """
    counts = statuses(replies)
    late = counts.pop(503, 0)
    assert counts.keys() == {200, 429}
    assert late <= len(replies) // 50, counts
    assert tokens - late <= counts[200] <= tokens
