"""Tests of docker-compose.sidecar.yml, which runs ratelimitd inside Envoy."""

import httpx
import pytest

from tests.containers.conftest import Front
from tests.containers.engine import EngineError, run
from tests.containers.forms import SIDECAR, Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ratelimitd_inside_envoy_gives_the_same_responses(
    deployment: Deployment, http: httpx.AsyncClient
) -> None:
    """No replica runs outside Envoy. Envoy is not root and has a read-only root file system."""
    project = await deployment.change(SIDECAR)
    await Front(project, http).assert_three_of_ten_pass()
    assert await project.redis("HGET", "rate:user:user1:api:/api/*", "tokens") == ["0"]

    assert [c for c in await project.containers("ratelimitd") if c.state == "running"] == []
    envoy = await project.container("envoy")
    assert (await run("docker", "exec", envoy.id, "id", "-u")).strip() == "65532"
    with pytest.raises(EngineError, match="Read-only file system"):
        await run("docker", "exec", "--user", "0", envoy.id, "touch", "/written")

    # Prometheus of docker-compose.observability.yml looks for replicas under this name.
    metrics = await run(
        *("docker", "run", "--rm", "--network", f"{project.name}_default"),
        *("curlimages/curl:latest", "--noproxy", "*", "-s", "http://ratelimitd:9091/metrics"),
    )
    assert "ratelimitd_build_info" in metrics
