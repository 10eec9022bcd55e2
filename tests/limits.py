"""The seed's limits, how to see which ones a replica has in force, and how to count answers."""

import itertools
import json
from collections.abc import Iterable

import grpc
import httpx

from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.policy.text import digest_of
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
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


_COUNT = itertools.count(1)


def new_limits_json(**changes: float) -> str:
    """The seed's JSON with changes, and another refill of the global bucket each time, by a billionth.

    So it is a new policy even where the limits are those of the test before, and replicas forget the denials
    that they remember: a bucket that a test deletes is one that they may deny for another second.
    """
    rate = (SEED | changes)["global_rate"] * (1 + next(_COUNT) * 1e-9)
    return limits_json(**(changes | {"global_rate": rate}))


async def until_in_force(limits: str, replicas: Iterable[str]) -> None:
    """Every replica answers with these limits. It is a dry run, so nobody's buckets hold less afterwards."""
    expected = digest_of(limits)

    async def in_force() -> bool:
        return all([await _revision(replica) == expected for replica in replicas])

    await eventually(in_force, f"limits {limits} on every replica")


async def _revision(target: str) -> str:
    request = CheckRequest()
    request.attributes.request.http.headers["x-user-id"] = "probe"
    request.attributes.context_extensions[DRY_RUN_CONTEXT] = "true"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        answer = await call(request, timeout=5)
    revision: str = answer.dynamic_metadata.fields["policy"].string_value
    return revision


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
