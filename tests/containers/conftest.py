"""Starts the compose project once for all tests here, and removes it with its volumes at the end."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from tests.containers.engine import CALL_S, Container, EngineError, Project, run, why_no_engine
from tests.eventually import eventually
from tests.example_limits import KEY, new_limits_json, until_in_force
from tests.required_programs import unavailable

REPLICAS = 3
UP_S = 600.0
"""Time to build the images and start all containers on a slow machine with a cold cache."""

PROXIES = "tests/containers/proxy-variables.yml"
"""Sets proxy variables in every container, as the configuration of Docker can. Nothing may use them."""

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
        # The admin interface listens only on the loopback of the container, and the image has no curl.
        envoy = await self.project.container("envoy")
        lines = await run(
            *("docker", "run", "--rm", "--network", f"container:{envoy.id}"),
            *("curlimages/curl:latest", "--noproxy", "*", "-s", "--max-time", "5"),
            "http://127.0.0.1:9901/clusters",
        )
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def project() -> AsyncIterator[Project]:
    """Runs the compose file with three healthy replicas. Without an engine: skips, but fails in CI."""
    reason = await asyncio.to_thread(why_no_engine)
    if reason:
        unavailable(reason)
    project = Project(f"ratelimitd-test-{uuid.uuid4().hex[:8]}", ("docker-compose.yml", PROXIES))
    try:
        up = ("up", "--build", "--detach", "--wait", "--scale", f"ratelimitd={REPLICAS}")
        try:
            await project.compose(*up, timeout_s=UP_S)
        except (EngineError, TimeoutError) as error:
            logs = await project.compose("logs", "--no-color", "--tail", "100")
            pytest.fail(f"{error}\n{await project.compose('ps', '--all')}\n{logs}")
        yield project
    finally:
        await project.compose("down", "--volumes", "--rmi", "local", "--remove-orphans", timeout_s=2 * CALL_S)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def front_of_session(project: Project) -> AsyncIterator[Front]:
    """Yields a client of the port that Envoy publishes."""
    # A few connections per replica. On few cores, more would run into Envoy's timeout of 250 ms and get 503.
    limits = httpx.Limits(max_connections=2 * REPLICAS)
    async with httpx.AsyncClient(
        base_url="http://127.0.0.1:8081", trust_env=False, limits=limits, timeout=30
    ) as http:
        yield Front(project, http)


@pytest_asyncio.fixture(loop_scope="session")
async def front(front_of_session: Front) -> Front:
    """Returns the project with all replicas healthy, the example limits and full buckets."""
    await front_of_session.until_healthy_hosts(REPLICAS)
    await front_of_session.set_limits()
    return front_of_session
