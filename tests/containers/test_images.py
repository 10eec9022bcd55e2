"""What the containers may do, and what of them can be reached."""

import pytest

from tests.containers.conftest import REPLICAS, Front
from tests.containers.engine import EngineError, inspect, run

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_only_envoys_front_is_published_beyond_loopback(front: Front) -> None:
    """Replicas and the admin service are on loopback, each at a port of its own; Redis and others nowhere."""
    containers = await front.project.containers()
    open_to_all = {
        (c.service, published) for c in containers for at, published, _ in c.ports if at != "127.0.0.1"
    }
    assert open_to_all == {("envoy", 8081)}
    on_loopback = [(c.service, port) for c in containers for at, port, _ in c.ports if at == "127.0.0.1"]
    assert len(set(on_loopback)) == REPLICAS + 1
    assert {service for service, _ in on_loopback} == {"ratelimitd", "admin"}
    assert ("admin", 9090) in on_loopback


@pytest.mark.parametrize("service", ["redis", "ratelimitd", "admin", "backend", "envoy"])
async def test_no_container_runs_as_root_or_can_become_more(front: Front, service: str) -> None:
    """A fixed user, no capability, no new privilege, and a root file system that cannot be written."""
    for container in await front.project.containers(service):
        assert (await run("docker", "exec", container.id, "id", "-u")).strip() != "0"
        host = (await inspect(container))["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert host["SecurityOpt"] == ["no-new-privileges:true"]
        with pytest.raises(EngineError, match="Read-only file system"):
            await run("docker", "exec", "--user", "0", container.id, "touch", "/written")


async def test_the_image_says_when_it_is_healthy(front: Front) -> None:
    """By its own command, in every replica."""
    for replica in await front.replicas():
        facts = await inspect(replica)
        assert facts["State"]["Health"]["Status"] == "healthy"
        assert facts["Config"]["Healthcheck"]["Test"] == ["CMD", "python", "-m", "ratelimitd.cli.health"]
        assert (await run("docker", "exec", replica.id, "ratelimitd", "health")).strip() == "SERVING"


async def test_the_service_is_process_one(front: Front) -> None:
    """No shell stands between it and SIGTERM, and it is installed, not copied."""
    (replica, *_) = await front.replicas()
    script = "print(open('/proc/1/cmdline').read()); import ratelimitd; print(ratelimitd.__file__)"
    command, module = (await run("docker", "exec", replica.id, "python", "-c", script)).splitlines()
    assert command.split("\0")[-3:] == ["/opt/ratelimitd/bin/ratelimitd", "serve", ""]
    assert module.startswith("/opt/ratelimitd/lib/python3.13/site-packages/")
