"""Tests of docker-compose.observability.yml without Grafana, whose dashboard is tested in tests/deploy."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from tests.containers.conftest import Front
from tests.containers.engine import ROOT, Project, assert_locked_down, inspect, run
from tests.containers.forms import PLAIN, REPLICAS, UP_S, Deployment
from tests.deploy.prometheus import Prometheus
from tests.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILES = ("docker-compose.observability.yml", "tests/containers/proxy-variables.observability.yml")
CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yml"
QUICK = "2s"
"""The interval at which Prometheus looks for replicas and scrapes them. It is 5 s in the shipped file."""


def quick_intervals(folder: Path) -> str:
    """Writes a compose file that gives Prometheus its shipped configuration with other intervals."""
    text, count = re.subn(r"_interval: \d+s", f"_interval: {QUICK}", CONFIGURATION.read_text())
    assert count == 3
    configuration, file = folder / CONFIGURATION.name, folder / "quick-intervals.yml"
    configuration.write_text(text)
    volume = f"{configuration}:/etc/prometheus/{CONFIGURATION.name}:ro"
    file.write_text(yaml.safe_dump({"services": {"prometheus": {"volumes": [volume]}}}))
    return str(file)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def observed(
    deployment: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Project]:
    """Runs Prometheus beside the project, and removes it afterwards."""
    project = await deployment.change(PLAIN)
    quick = quick_intervals(tmp_path_factory.mktemp("prometheus"))
    observed = replace(project, files=(*project.files, *FILES, quick))
    try:
        await observed.compose("up", "--detach", "--wait", "--no-recreate", "prometheus", timeout_s=UP_S)
        yield observed
    finally:
        await observed.compose("rm", "--stop", "--force", "prometheus")
        await run("docker", "volume", "rm", f"{project.name}_prometheus")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def prometheus(observed: Project) -> AsyncIterator[Prometheus]:
    """Yields a client of the port that Prometheus publishes."""
    container = await observed.container("prometheus")
    ((host, port, _),) = container.ports
    assert host == "127.0.0.1"
    async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, timeout=30) as http:
        yield Prometheus(http)


async def metrics_of_replicas(front: Front) -> set[str]:
    """Returns the addresses of the metrics of the running replicas, in the network of the project."""
    networks = [(await inspect(replica))["NetworkSettings"]["Networks"] for replica in await front.replicas()]
    return {f"{network['IPAddress']}:9091" for of_one in networks for network in of_one.values()}


async def until_scraped(front: Front, prometheus: Prometheus, count: int) -> None:
    """Waits until Prometheus scrapes exactly the running replicas, of which there are `count`."""

    async def all_are_scraped() -> bool:
        running = await metrics_of_replicas(front)
        return len(running) == count and await prometheus.up("ratelimitd") == running

    await eventually(all_are_scraped, f"Prometheus scrapes {count} replicas")


async def test_prometheus_counts_the_requests_of_all_replicas(front: Front, prometheus: Prometheus) -> None:
    await until_scraped(front, prometheus, REPLICAS)
    sum_ = "sum(ratelimitd_decisions_total) or vector(0)"
    before = await prometheus.value(sum_)
    replies = [reply for user in range(4) for reply in await front.get(f"user{user}", 10)]
    decided = [reply for reply in replies if "ratelimit-policy" in reply.headers]
    assert decided

    async def all_are_counted() -> bool:
        return await prometheus.value(sum_) >= before + len(decided)

    await eventually(all_are_counted, f"{len(decided)} more decisions in Prometheus")
    assert await prometheus.up("ratelimitd-admin") == {"admin:9090"}
    assert await prometheus.value("min(ratelimitd_store_up)") == 1


async def test_prometheus_finds_a_new_replica_and_forgets_one_that_is_gone(
    front: Front, observed: Project, prometheus: Prometheus
) -> None:
    scale = ("up", "--detach", "--no-recreate", "--no-deps", "--scale")
    try:
        await observed.compose(*scale, f"ratelimitd={REPLICAS + 1}", "ratelimitd")
        await until_scraped(front, prometheus, REPLICAS + 1)
    finally:
        await observed.compose(*scale, f"ratelimitd={REPLICAS}", "ratelimitd")
    await until_scraped(front, prometheus, REPLICAS)


async def test_the_alert_rules_of_the_repository_are_in_use(prometheus: Prometheus) -> None:
    (group,) = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())["groups"]

    async def all_are_evaluated() -> bool:
        return await prometheus.loaded_alerts() == {
            rule["alert"] for rule in group["rules"] if "alert" in rule
        }

    await eventually(all_are_evaluated, "all alerts are evaluated")


async def test_prometheus_is_locked_down(observed: Project, prometheus: Prometheus) -> None:
    del prometheus  # it runs
    await assert_locked_down(await observed.container("prometheus"))
