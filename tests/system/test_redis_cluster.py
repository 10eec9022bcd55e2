"""Tests of replicas and commands over a real Redis Cluster of three masters, as the documented users."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest_asyncio

from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from tests.redis_cluster import RedisCluster, redis_cluster
from tests.system.command import Result, run
from tests.system.processes import line_with, started

DOCS = Path(__file__).parents[2] / "docs"
IN_CLUSTER = (DOCS / "store.md").read_text().partition("\n## Redis Cluster\n")[2].partition("\n## ")[0]
ACL_LINES = re.findall(r"^ACL SETUSER .*$", (DOCS / "operations.md").read_text() + IN_CLUSTER, re.MULTILINE)

DENIED = 6
"""The exit status of a command that describes a denial."""

USERS = [f"user{number}" for number in range(12)]

USER_LIMITS = """
tiers:
  global: off
  user: { capacity: 6, refill_rate: 0.000001 }
  user_api: { capacity: 5, refill_rate: 0.000001 }
"""

GLOBAL_LIMIT = """
tiers:
  global: { capacity: 40, refill_rate: 0.000001 }
  user: { capacity: 1000, refill_rate: 0.000001 }
  user_api: off
"""


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[RedisCluster]:
    """Runs a cluster with the documented users on each node."""
    async with redis_cluster(3) as running:
        for member in running.members:
            for line in ACL_LINES:
                await member.run(*line.split())
        yield running


def url_for(cluster: RedisCluster, user: str) -> str:
    return cluster.url.replace("://", f"://{user}:PASSWORD@")


async def allowed(target: str, times: int, suffix: str = "") -> int:
    """Sends requests of all users to a replica at once, and returns how many were allowed."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        requests = []
        for user in USERS * times:
            request = CheckRequest()
            request.attributes.request.http.headers["x-user-id"] = user + suffix
            request.attributes.request.http.path = "/"
            requests.append(request)
        responses = await asyncio.gather(*(call(request, timeout=20) for request in requests))
        codes = {response.denied_response.status.code for response in responses if response.status.code}
        assert codes <= {429}, codes
        return sum(response.status.code == 0 for response in responses)


async def test_three_replicas_admit_exactly_the_tokens_of_each_tier(cluster: RedisCluster) -> None:
    operator = url_for(cluster, "ratelimitd-operator")

    async def operate(*arguments: str, text: str = "") -> Result:
        done = await run(*arguments, "--redis-url", operator, text=text)
        assert (done.status, "the store" in done.err) == (0, False), done.err
        return done

    await operate("policy", "apply", "-", text=USER_LIMITS)
    targets = []
    async with AsyncExitStack() as stack:
        for transport in ("grpcio", "fast", "grpcio"):
            serve = (
                "serve",
                "--transport",
                transport,
                "--listen",
                "127.0.0.1:0",
                "--store-timeout-ms",
                "10000",
            )
            url = url_for(cluster, "ratelimitd")
            process = await stack.enter_async_context(started(*serve, "--redis-url", url))
            line = await line_with(process, '"listening"')
            targets.append(re.search(r'"address": ?"([^"]+)"', line)[1])  # type: ignore[index] # it matches
        admitted = await asyncio.gather(*(allowed(target, 4) for target in targets))
        assert sum(admitted) == 5 * len(USERS)

        shown = (await operate("bucket", "show", "user1", "--json")).out
        assert "rate:user:{user1}:api:*" in shown
        explain = ("explain", "--user", "user1", "--path", "/")
        assert (await run(*explain, "--redis-url", operator)).status == DENIED
        await operate("bucket", "reset", "user1", "--yes")
        await operate(*explain)

        await operate("policy", "apply", "-", "--wait", text=GLOBAL_LIMIT)
        admitted = await asyncio.gather(*(allowed(target, 4, "-later") for target in targets))
        # A replica loses the tokens that it has leased and that no request comes for.
        assert 20 <= sum(admitted) <= 40

        status = (await operate("policy", "status", "--json")).json
        assert {one["number"] for one in status["replicas"]} == {2}
        await operate("policy", "rollback", "1", "--wait")
        await operate("top")
        await operate("usage")
