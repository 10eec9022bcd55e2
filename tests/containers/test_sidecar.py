"""Tests of docker-compose.sidecar.yml, which runs ratelimitd inside Envoy."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.containers.conftest import REPLICAS, UP_S, Front
from tests.containers.engine import EngineError, Project, run
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def sidecar(front: Front) -> AsyncIterator[Project]:
    """Runs the project in this form, and restores it afterwards, because both forms publish the same port."""
    project = replace(front.project, files=(*front.project.files, "docker-compose.sidecar.yml"))
    up = ("up", "--detach", "--wait")
    try:
        await project.compose(*up, "--build", timeout_s=UP_S)
        yield project
    finally:
        await front.project.compose(*up, "--scale", f"ratelimitd={REPLICAS}", timeout_s=UP_S)


async def test_ratelimitd_inside_envoy_gives_the_same_responses(front: Front, sidecar: Project) -> None:
    """No replica runs outside Envoy. Envoy is not root and has a read-only root file system."""
    limits = limits_json(**NO_REFILL)
    await sidecar.redis("SET", KEY, limits)

    async def in_force() -> bool:
        reply = await front.http.get("/api/ping", headers={"X-User-Id": "probe"})
        return '"user_api";q=3;w=3000000' in reply.headers.get("ratelimit-policy", "")

    await eventually(in_force, "the limits of the test")
    for key in await sidecar.redis("KEYS", "rate:*"):
        await sidecar.redis("DEL", key)
    replies = await front.get("user1", 10)
    assert statuses(replies) == {200: 3, 429: 7}
    assert await sidecar.redis("HGET", "rate:user:user1:api:/api/*", "tokens") == ["0"]

    assert [c for c in await sidecar.containers("ratelimitd") if c.state == "running"] == []
    envoy = await sidecar.container("envoy")
    assert (await run("docker", "exec", envoy.id, "id", "-u")).strip() == "65532"
    with pytest.raises(EngineError, match="Read-only file system"):
        await run("docker", "exec", "--user", "0", envoy.id, "touch", "/written")

    # Prometheus of docker-compose.observability.yml looks for replicas under this name.
    metrics = await run(
        *("docker", "run", "--rm", "--network", f"{sidecar.name}_default"),
        *("curlimages/curl:latest", "--noproxy", "*", "-s", "http://ratelimitd:9091/metrics"),
    )
    assert "ratelimitd_build_info" in metrics
