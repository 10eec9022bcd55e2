"""The example limits, waiting until replicas use given limits, and counting responses."""

import itertools
import json
from collections.abc import Iterable

import grpc
import httpx

from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.policy.text import digest_of
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from tests.eventually import eventually

KEY = "rate_limit:config"
EXAMPLE_LIMITS: dict[str, float] = {
    "global_capacity": 10,
    "global_rate": 1,
    "user_capacity": 5,
    "user_rate": 1,
    "user_api_capacity": 3,
    "user_api_rate": 1,
}
NO_REFILL = {"global_rate": 0.000001, "user_rate": 0.000001, "user_api_rate": 0.000001}
"""Rates at which no token refills during a test, so that counts are exact."""


def limits_json(**changes: object) -> str:
    """Returns the JSON of the example limits with changes; None omits a field."""
    return json.dumps({key: value for key, value in (EXAMPLE_LIMITS | changes).items() if value is not None})


_COUNT = itertools.count(1)


def new_limits_json(**changes: float) -> str:
    """Returns limits_json(**changes) with a global refill rate that differs from call to call by a billionth.

    Each text is therefore a new policy, for which replicas clear their deny caches. Otherwise they could deny
    for one second a bucket that a test has deleted.
    """
    rate = (EXAMPLE_LIMITS | changes)["global_rate"] * (1 + next(_COUNT) * 1e-9)
    return limits_json(**(changes | {"global_rate": rate}))


async def until_in_force(limits: str, replicas: Iterable[str]) -> None:
    """Waits until each replica uses these limits. The requests are dry runs, which take no tokens."""
    expected = digest_of(limits)

    async def in_force() -> bool:
        return all([await _digest_in_force(replica) == expected for replica in replicas])

    await eventually(in_force, f"limits {limits} on every replica")


async def _digest_in_force(target: str) -> str:
    request = CheckRequest()
    request.attributes.request.http.headers["x-user-id"] = "probe"
    request.attributes.context_extensions[DRY_RUN_CONTEXT] = "true"
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        response = await call(request, timeout=5)
    digest: str = response.dynamic_metadata.fields["policy"].string_value
    return digest


def statuses(responses: list[httpx.Response]) -> dict[int, int]:
    """Returns the number of responses with each status."""
    found = [response.status_code for response in responses]
    return {status: found.count(status) for status in sorted(set(found))}


def assert_one_bucket(responses: list[httpx.Response], tokens: int) -> None:
    """Asserts that replicas allowed as many requests as the shared bucket had tokens.

    On a busy machine a decision may time out. Its response is then 503, and it may have taken its token.
    """
    counts = statuses(responses)
    late = counts.pop(503, 0)
    assert counts.keys() == {200, 429}
    assert late <= len(responses) // 50, counts
    assert tokens - late <= counts[200] <= tokens
