"""The metrics of real replicas: every request is counted once, also while Redis is away."""

import asyncio
import json
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import httpx
from prometheus_client.parser import text_string_to_metric_families

from ratelimitd.address import TcpAddress
from ratelimitd.core.match import DRY_RUN_CONTEXT
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.services import CHECK
from tests.eventually import WAIT_S
from tests.example_limits import KEY
from tests.redis_server import redis_server
from tests.system.processes import started

POLICY = """
tiers:
  global: {capacity: 1000000, refill_rate: 0.001}
  user: {capacity: 5, refill_rate: 0.001}
  user_api: {capacity: 3, refill_rate: 0.001}
routes:
  - {path: /free, exempt: true}
overrides:
  users:
    mallory: {blocked: true}
"""
REPEATS = 6
"""How often each kind of request is sent to each replica: more often than a bucket of POLICY holds tokens."""


class Replica:
    """A running replica: the connection for its requests, and the address of its metrics."""

    def __init__(self, channel: grpc.aio.Channel, metrics: str) -> None:
        self._check = channel.unary_unary(
            CHECK,
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        self.metrics = metrics

    async def outcome(self, user: str, path: str, *, dry_run: bool = False) -> str:
        """Sends a request, and returns the outcome in its reply."""
        request = CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = "GET", path
        http.headers["x-user-id"] = user
        if dry_run:
            request.attributes.context_extensions[DRY_RUN_CONTEXT] = "true"
        reply = await self._check(request, timeout=WAIT_S)
        outcome: str = reply.dynamic_metadata["outcome"]
        return outcome


class Scrape:
    """The metrics of a replica at one time."""

    def __init__(self, text: str) -> None:
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def sums(self, name: str, label: str = "") -> Counter[str]:
        """Returns the sums of a metric by the value of a label."""
        sums: Counter[str] = Counter()
        for sample in self._samples:
            if sample.name == name:
                sums[sample.labels.get(label, "")] += int(sample.value)
        return sums


async def addresses(process: Process) -> dict[str, str]:
    """Returns the addresses in the log of a process that starts, by event."""
    assert process.stdout is not None
    found: dict[str, str] = {}
    async with asyncio.timeout(2 * WAIT_S):
        while not found.keys() >= {"listening", "metrics_listening"}:
            line = json.loads(await process.stdout.readline())
            found[line["event"]] = line.get("address", "")
    return found


@asynccontextmanager
async def running(transport: str, store: str) -> AsyncIterator[Replica]:
    """Runs a replica."""
    address = TcpAddress(LOOPBACK, free_port())
    flags = ["--listen", str(address), "--transport", transport, "--metrics-listen", f"{LOOPBACK}:0"]
    # On a busy machine a decision may take longer than the default of 50 ms.
    flags += ["--leave-s", "0", "--drain-s", "0", "--store-timeout-ms", "1000"]
    async with started("serve", *flags, env={"RATELIMITD_REDIS_URL": f"redis://{store}/0"}) as process:
        metrics = (await addresses(process))["metrics_listening"]
        async with grpc.aio.insecure_channel(str(address)) as channel:
            yield Replica(channel, metrics)


async def send(replica: Replica, new_users: str, *, dry_run: bool = False) -> Counter[str]:
    """Sends every kind of request to a replica at once, and counts the outcomes in the replies.

    `new_users` begins the ids of the users who were not seen before.
    """
    kinds = [("greedy", "/a"), ("greedy", "/b"), ("mallory", "/a"), ("modest", "/free")]
    kinds += [(f"{new_users}{number}", "/a") for number in range(5)]
    requests = [replica.outcome(user, path, dry_run=dry_run) for _ in range(REPEATS) for user, path in kinds]
    return Counter(await asyncio.gather(*requests))


async def test_each_replica_counts_the_requests_that_it_decided() -> None:
    """Replies name the outcome. The metrics have as many of each, also during an outage of Redis."""
    async with AsyncExitStack() as redis, AsyncExitStack() as stack:
        store, client = await redis.enter_async_context(redis_server())
        await client.set(KEY, POLICY)
        starting = [stack.enter_async_context(running(transport, store)) for transport in ("grpcio", "fast")]
        replicas = await asyncio.gather(*starting)

        async def to_each(new_users: str, *, dry_run: bool = False) -> Sequence[Counter[str]]:
            return await asyncio.gather(*[send(one, new_users, dry_run=dry_run) for one in replicas])

        before = await to_each("first")
        assert sum(before, Counter()).keys() == {"allowed", "denied", "blocked", "exempt"}
        await to_each("dry", dry_run=True)
        await redis.aclose()
        during = await to_each("later")
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as http:
            scrapes = [Scrape((await http.get(f"http://{one.metrics}/metrics")).text) for one in replicas]
        for scrape, first, later in zip(scrapes, before, during, strict=True):
            sent = first + later
            decisions = scrape.sums("ratelimitd_decisions_total", "outcome")
            assert decisions == sent
            assert decisions.total() == 2 * 9 * REPEATS
            assert scrape.sums("ratelimitd_decision_seconds_count").total() == sent.total()
            assert scrape.sums("ratelimitd_store_errors_total", "reason").total() == later["undecided"] > 0
            assert scrape.sums("ratelimitd_store_batch_size_sum").total() > sent["allowed"]
