"""Tests of docker-compose.tls.yml and docker-compose.socket.yml: what is between Envoy and the service."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.containers.conftest import REPLICAS, UP_S, Front
from tests.containers.engine import Container, EngineError, Project, run
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")

UP = ("up", "--detach", "--wait")
"""It builds the image of `prepare` once; the others are those of the project."""
PLAIN = tuple(
    word
    for name in ("CA_FILE", "CERT_FILE", "KEY_FILE", "SERVER_NAME")
    for word in ("--env", f"RATELIMITD_CHECK_{name}=")
)
"""Options of `docker exec` with which a command does not use TLS."""

CHECK = ("ratelimitd", "check", "--path", "/", "--dry-run", "--target")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def restored(project: Project) -> AsyncIterator[Project]:
    """Yields the project, and restores it after the last test: all forms publish the same ports."""
    yield project
    await project.compose(*UP, "--remove-orphans", "--scale", f"ratelimitd={REPLICAS}", timeout_s=UP_S)


async def changed(project: Project, file: str) -> Project:
    """Runs one replica and Envoy with this file too."""
    project = replace(project, files=(*project.files, file))
    await project.compose(*UP, "--scale", "ratelimitd=1", "envoy", timeout_s=UP_S)
    return project


async def replica_of(project: Project) -> Container:
    """Returns the only running replica."""
    (replica,) = [one for one in await project.containers("ratelimitd") if one.state == "running"]
    return replica


async def until_exact(front: Front, project: Project) -> None:
    """Waits for limits without refill, then asserts that three of ten requests pass."""
    await project.redis("SET", KEY, limits_json(**NO_REFILL))

    async def in_force() -> bool:
        reply = await front.http.get("/api/ping", headers={"X-User-Id": "probe"})
        return '"user_api";q=3;w=3000000' in reply.headers.get("ratelimit-policy", "")

    await eventually(in_force, "the limits of the test")
    for key in await project.redis("KEYS", "rate:*"):
        await project.redis("DEL", key)
    assert statuses(await front.get("user1", 10)) == {200: 3, 429: 7}


async def test_envoy_and_the_replica_authenticate_each_other(
    front_of_session: Front, restored: Project
) -> None:
    project = await changed(restored, "docker-compose.tls.yml")
    await until_exact(front_of_session, project)
    replica, target = await replica_of(project), (*CHECK, "127.0.0.1:50051")
    assert "allowed" in await run("docker", "exec", replica.id, *target)
    with pytest.raises(EngineError, match="does not answer: UNAVAILABLE"):
        await run("docker", "exec", *PLAIN, replica.id, *target)


async def test_envoy_calls_the_replica_over_a_socket_that_others_cannot_open(
    front_of_session: Front, restored: Project
) -> None:
    project = await changed(restored, "docker-compose.socket.yml")
    await until_exact(front_of_session, project)
    replica = await replica_of(project)
    assert replica.ports == frozenset()
    target = (*CHECK, "unix:/run/ratelimitd/ratelimitd.sock")
    assert "allowed" in await run("docker", "exec", replica.id, *target)
    with pytest.raises(EngineError, match="does not answer: UNAVAILABLE"):
        await run("docker", "exec", "--user", "1234:1234", replica.id, *target)
