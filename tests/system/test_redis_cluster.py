"""Tests of replicas and commands over a real Redis Cluster of three masters, as the documented users."""

import asyncio
import re
import time
from asyncio.subprocess import DEVNULL, create_subprocess_exec
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
import pytest_asyncio

from ratelimitd.core.model import Limit
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings_table import CONFIG_KEY
from ratelimitd.store.cluster_slots import slot_of
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from tests.redis_cluster import RedisCluster, redis_cluster
from tests.system.command import Result, run
from tests.system.processes import line_with, started

DOCS = Path(__file__).parents[2] / "docs"
IN_CLUSTER = (DOCS / "store.md").read_text().partition("\n## Redis Cluster\n")[2].partition("\n## ")[0]
ACL_LINES = re.findall(r"^ACL SETUSER .*$", (DOCS / "operations.md").read_text() + IN_CLUSTER, re.MULTILINE)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("cluster")]

DENIED = 6
"""The exit status of a command that describes a denial."""

USERS = [f"user{number}" for number in range(12)]

MOVED_SLOTS = 60
"""Slots that move in a test, with that of the policy among them."""

FIRST_SLOT = slot_of(CONFIG_KEY) - MOVED_SLOTS // 2

MOVED_USERS = [
    user
    for user in (f"mover{number}" for number in range(5000))
    if FIRST_SLOT <= slot_of(user) < FIRST_SLOT + MOVED_SLOTS
]

USER_LIMITS = """
tiers:
  global: off
  user: { capacity: 1000, refill_rate: 0.000001 }
  user_api: { capacity: 5, refill_rate: 0.000001 }
"""

LARGE = 150
LARGE_LIMITS = USER_LIMITS.replace(" 5,", f" {LARGE},")

SMALL = 40

SMALL_GLOBAL = f"""
tiers:
  global: {{ capacity: {SMALL}, refill_rate: 0.000001 }}
  user: {{ capacity: 1000, refill_rate: 0.000001 }}
  user_api: off
"""
"""Its global bucket refills too slowly for leases."""

LEASED = Limit(80, 10.0)

LEASED_GLOBAL = f"""
tiers:
  global: {{ capacity: {LEASED.capacity}, refill_rate: {LEASED.refill_rate} }}
  user: {{ capacity: 1000, refill_rate: 0.000001 }}
  user_api: off
"""


class Running(NamedTuple):
    """A cluster, and the addresses of three replicas of ratelimitd that use it."""

    cluster: RedisCluster
    targets: Sequence[str]

    def url_of(self, user: str) -> str:
        """Returns the URL of the cluster for one of the documented users."""
        return self.cluster.url.replace("://", f"://{user}:PASSWORD@")

    async def run(self, *arguments: str, text: str = "") -> Result:
        """Runs a command as the operator."""
        return await run(*arguments, "--redis-url", self.url_of("ratelimitd-operator"), text=text)

    async def operate(self, *arguments: str, text: str = "") -> Result:
        """Runs a command that must work."""
        done = await self.run(*arguments, text=text)
        assert (done.status, "the store" in done.err) == (0, False), done.err
        return done

    async def admitted(self, users: Sequence[str]) -> int:
        """Sends a request of each user to each replica at once, and returns how many were allowed."""
        return sum(await asyncio.gather(*(allowed(target, users) for target in self.targets)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Running]:
    """Runs a cluster with the documented users on each node, and replicas on both transports."""
    async with redis_cluster(3, first_slot=FIRST_SLOT) as cluster, AsyncExitStack() as stack:
        for member in cluster.members:
            for line in ACL_LINES:
                await member.run(*line.split())
        found = Running(cluster, [f"{LOOPBACK}:{free_port()}" for _ in range(3)])
        options = ("--redis-url", found.url_of("ratelimitd"), "--store-timeout-ms", "10000")
        replicas = [
            await stack.enter_async_context(
                started("serve", "--transport", transport, "--listen", target, *options)
            )
            for transport, target in zip(("grpcio", "fast", "grpcio"), found.targets, strict=True)
        ]
        for replica in replicas:
            await line_with(replica, '"listening"')
        yield found


async def allowed(target: str, users: Sequence[str]) -> int:
    """Sends a request of each of these users to a replica at once, and returns how many were allowed."""
    async with grpc.aio.insecure_channel(target) as channel:
        call = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        requests = []
        for user in users:
            request = CheckRequest()
            request.attributes.request.http.headers["x-user-id"] = user
            request.attributes.request.http.path = "/"
            requests.append(request)
        responses = await asyncio.gather(*(call(request, timeout=20) for request in requests))
        codes = {response.denied_response.status.code for response in responses if response.status.code}
        assert codes <= {429}, codes
        return sum(response.status.code == 0 for response in responses)


async def test_three_replicas_admit_exactly_the_tokens_of_each_tier(running: Running) -> None:
    await running.operate("policy", "apply", "-", "--wait", text=USER_LIMITS)
    assert await running.admitted(USERS * 4) == 5 * len(USERS)

    shown = (await running.operate("bucket", "show", "user1", "--json")).out
    assert "rate:user:{user1}:api:*" in shown
    explain = ("explain", "--user", "user1", "--path", "/")
    assert (await running.run(*explain)).status == DENIED
    await running.operate("bucket", "reset", "user1", "--yes")
    await running.operate(*explain)

    await running.operate("policy", "apply", "-", "--wait", text=SMALL_GLOBAL)
    assert await running.admitted([f"{user}-later" for user in USERS] * 4) == SMALL
    await running.operate("policy", "rollback", "1", "--wait")


async def test_three_replicas_never_exceed_a_leased_global_bucket(running: Running) -> None:
    await (await running.cluster.owner("rate:global")).client.delete("rate:global")
    began_s = time.monotonic()
    await running.operate("policy", "apply", "-", "--wait", text=LEASED_GLOBAL)
    counts = [await running.admitted([f"{user}-leased" for user in USERS]) for _ in range(8)]
    lasted_s = time.monotonic() - began_s
    assert LEASED.capacity // 4 <= sum(counts) <= LEASED.capacity + LEASED.refill_rate * lasted_s


async def test_slots_move_under_load(running: Running) -> None:
    """All decisions are made exactly, and all commands work, while the slot of the policy moves."""
    cluster = running.cluster
    source, target, _ = cluster.members
    assert await cluster.owner(CONFIG_KEY) is source
    await running.operate("policy", "apply", "-", "--wait", text=LARGE_LIMITS)
    reshard = ("--cluster-from", source.id, "--cluster-to", target.id, "--cluster-slots", str(MOVED_SLOTS))
    moving = await create_subprocess_exec(
        *("redis-cli", "--cluster", "reshard", source.address, *reshard, "--cluster-yes"),
        stdin=DEVNULL,
        stdout=DEVNULL,
    )

    numbers = count()

    async def operate() -> None:
        while moving.returncode is None:
            for command in ("policy status", "top", "usage", f"bucket show {MOVED_USERS[0]}"):
                await running.operate(*command.split())
            await running.operate("policy", "apply", "-", text=f"{LARGE_LIMITS}# {next(numbers)}")

    admitted = 0
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(operate())
            while moving.returncode is None:
                admitted += await running.admitted(MOVED_USERS)
    finally:
        if moving.returncode is None:
            moving.terminate()
        status = await moving.wait()
    assert status == 0
    assert await cluster.owner(CONFIG_KEY) is target
    while some := await running.admitted(MOVED_USERS):
        admitted += some
    assert admitted == LARGE * len(MOVED_USERS)
