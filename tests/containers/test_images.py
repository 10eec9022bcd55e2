"""Tests of the permissions and the published ports of the containers."""

import pytest

from tests.containers.conftest import Front
from tests.containers.engine import assert_locked_down, inspect, run
from tests.containers.forms import REPLICAS

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_only_the_envoy_listener_is_published_beyond_loopback(front: Front) -> None:
    """Replicas, the admin service and port 50051 of Envoy are published on loopback; all others are not."""
    containers = await front.project.containers()
    open_to_all = {
        (c.service, published) for c in containers for at, published, _ in c.ports if at != "127.0.0.1"
    }
    assert open_to_all == {("envoy", 8081)}
    on_loopback = [(c.service, port) for c in containers for at, port, _ in c.ports if at == "127.0.0.1"]
    assert len(set(on_loopback)) == REPLICAS + 2
    assert {service for service, _ in on_loopback} == {"ratelimitd", "admin", "envoy"}
    assert {("admin", 9090), ("envoy", 50051)} <= set(on_loopback)


@pytest.mark.parametrize("service", ["redis", "ratelimitd", "admin", "backend", "envoy"])
async def test_no_container_runs_as_root_or_can_gain_privileges(front: Front, service: str) -> None:
    for container in await front.project.containers(service):
        await assert_locked_down(container)


async def test_the_image_has_a_health_check(front: Front) -> None:
    for replica in await front.replicas():
        facts = await inspect(replica)
        assert facts["State"]["Health"]["Status"] == "healthy"
        assert facts["Config"]["Healthcheck"]["Test"] == ["CMD", "python", "-m", "ratelimitd.cli.health"]
        assert (await run("docker", "exec", replica.id, "ratelimitd", "health")).strip() == "SERVING"


async def test_the_service_is_the_first_process_of_its_container(front: Front) -> None:
    """It receives SIGTERM directly, without a shell. Its code is the installed package."""
    (replica, *_) = await front.replicas()
    script = "print(open('/proc/1/cmdline').read()); import ratelimitd; print(ratelimitd.__file__)"
    command, module = (await run("docker", "exec", replica.id, "python", "-c", script)).splitlines()
    assert command.split("\0")[-3:] == ["/opt/ratelimitd/bin/ratelimitd", "serve", ""]
    assert module.startswith("/opt/ratelimitd/lib/python3.13/site-packages/")
