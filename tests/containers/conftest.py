"""Runs the compose project for all tests here, and removes it with its volumes at the end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import h11
import httpx
import pytest_asyncio

from tests.containers.engine import Container, Project, run, why_no_engine
from tests.containers.forms import PLAIN, REPLICAS, Deployment
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, new_limits_json, statuses, until_in_force
from tests.required_programs import unavailable

CLUSTERS = (
    "exec 3<>/dev/tcp/127.0.0.1/9901; "
    r"printf 'GET /clusters HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n' >&3; cat <&3"
)
"""Gets Envoy's statistics. Its admin interface listens only on loopback, and the image has no curl."""

RESET = "redis.call('FLUSHALL') return redis.call('SET', KEYS[1], ARGV[1])"
"""Empties the store and sets the limits in one step, so that no replica ever reads a store without limits."""


@dataclass(frozen=True)
class Front:
    """The running project, and a client of Envoy."""

    project: Project
    http: httpx.AsyncClient

    async def set_limits(self, **changes: float) -> None:
        """Sets the example limits with changes, waits until each replica uses them, and fills all buckets."""
        limits = new_limits_json(**changes)
        await self._reset(limits)
        await until_in_force(limits, [target(replica) for replica in await self.replicas()])
        await self._reset(limits)

    async def _reset(self, limits: str) -> None:
        await self.project.redis("EVAL", RESET, "1", KEY, limits)

    async def get(self, user: str, times: int) -> list[httpx.Response]:
        """Sends this many requests of a user at once."""
        calls = [self.http.get("/api/ping", headers={"X-User-Id": user}) for _ in range(times)]
        return list(await asyncio.gather(*calls))

    async def assert_three_of_ten_pass(self) -> None:
        """Waits for limits without refill, then asserts that a user gets three of ten requests."""
        await self.project.redis("SET", KEY, limits_json(**NO_REFILL))

        async def in_force() -> bool:
            reply = await self.http.get("/api/ping", headers={"X-User-Id": "probe"})
            return '"user_api";q=3;w=3000000' in reply.headers.get("ratelimit-policy", "")

        await eventually(in_force, "the limits of the test")
        for key in await self.project.redis("KEYS", "rate:*"):
            await self.project.redis("DEL", key)
        assert statuses(await self.get("user1", 10)) == {200: 3, 429: 7}

    async def bucket(self, key: str) -> tuple[float, float]:
        """Returns the tokens of a bucket, and when they were counted, in seconds of the store's clock."""
        lines = await self.project.redis("HGETALL", key)
        fields = dict(zip(lines[::2], lines[1::2], strict=True))
        assert fields.keys() == {"tokens", "last"}
        return float(fields["tokens"]), float(fields["last"]) / 1e6

    async def now_s(self) -> float:
        """Returns the store's clock in seconds."""
        seconds, micros = await self.project.redis("TIME")
        return int(seconds) + int(micros) / 1e6

    async def replicas(self) -> list[Container]:
        """Returns the running replicas."""
        return [c for c in await self.project.containers("ratelimitd") if c.state == "running"]

    async def hosts(self) -> dict[str, dict[str, str]]:
        """Returns Envoy's statistics of each replica by address: health_flags, rq_total and more."""
        envoy = await self.project.container("envoy")
        lines = _body(await run("docker", "exec", envoy.id, "bash", "-c", CLUSTERS))
        rows = [line.split("::") for line in lines.splitlines()]
        hosts: dict[str, dict[str, str]] = {}
        for row in rows:
            if row[0] == "ratelimitd" and len(row) == 4 and ":" in row[1]:
                hosts.setdefault(row[1], {})[row[2]] = row[3]
        return hosts

    async def until_healthy_hosts(self, count: int) -> None:
        """Waits until Envoy knows exactly this many replicas and all of them are healthy."""

        async def all_healthy() -> bool:
            hosts = await self.hosts()
            return len(hosts) == count and all(host["health_flags"] == "healthy" for host in hosts.values())

        await eventually(all_healthy, f"{count} healthy replicas in Envoy")


def target(replica: Container) -> str:
    """Returns the address of a replica on this machine: its own port on loopback."""
    (published,) = {published for _, published, _ in replica.ports}
    return f"127.0.0.1:{published}"


def _body(response: str) -> str:
    """Returns the body of an HTTP response, whose chunks may end within a line."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "envoy")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(response.encode())
    connection.receive_data(b"")
    body = bytearray()
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
    return body.decode()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def deployment() -> AsyncIterator[Deployment]:
    """Yields the project, of which nothing runs yet. Without an engine: skips, but fails in CI."""
    reason = await asyncio.to_thread(why_no_engine)
    if reason:
        unavailable(reason)
    deployment = Deployment(f"ratelimitd-test-{uuid.uuid4().hex[:8]}")
    try:
        yield deployment
    finally:
        await deployment.remove()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the port that Envoy publishes."""
    # A few connections per replica. On few cores, more would run into Envoy's timeout of 250 ms and get 503.
    limits = httpx.Limits(max_connections=2 * REPLICAS)
    async with httpx.AsyncClient(
        base_url="http://127.0.0.1:8081", trust_env=False, limits=limits, timeout=30
    ) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def front(deployment: Deployment, http: httpx.AsyncClient) -> Front:
    """Returns the project with three healthy replicas, the example limits and full buckets."""
    front = Front(await deployment.change(PLAIN), http)
    await front.until_healthy_hosts(REPLICAS)
    await front.set_limits()
    return front
