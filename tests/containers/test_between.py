"""Tests of docker-compose.tls.yml and docker-compose.socket.yml: what is between Envoy and the service."""

import httpx
import pytest

from tests.containers.conftest import Front
from tests.containers.engine import EngineError, run
from tests.containers.forms import SOCKET, TLS, Deployment

pytestmark = pytest.mark.asyncio(loop_scope="session")

WITHOUT_TLS = tuple(
    word
    for name in ("CA_FILE", "CERT_FILE", "KEY_FILE", "SERVER_NAME")
    for word in ("--env", f"RATELIMITD_CHECK_{name}=")
)
"""Options of `docker exec` with which a command does not use TLS."""

CHECK = ("ratelimitd", "check", "--path", "/", "--dry-run", "--target")


async def test_envoy_and_the_replica_authenticate_each_other(
    deployment: Deployment, http: httpx.AsyncClient
) -> None:
    front = Front(await deployment.change(TLS), http)
    await front.assert_three_of_ten_pass()
    (replica,) = await front.replicas()
    target = (*CHECK, "127.0.0.1:50051")
    assert "allowed" in await run("docker", "exec", replica.id, *target)
    with pytest.raises(EngineError, match="does not answer: UNAVAILABLE"):
        await run("docker", "exec", *WITHOUT_TLS, replica.id, *target)


async def test_envoy_calls_the_replica_over_a_socket_that_others_cannot_open(
    deployment: Deployment, http: httpx.AsyncClient
) -> None:
    front = Front(await deployment.change(SOCKET), http)
    await front.assert_three_of_ten_pass()
    (replica,) = await front.replicas()
    assert replica.ports == frozenset()
    target = (*CHECK, "unix:/run/ratelimitd/ratelimitd.sock")
    assert "allowed" in await run("docker", "exec", replica.id, *target)
    with pytest.raises(EngineError, match="does not answer: UNAVAILABLE"):
        await run("docker", "exec", "--user", "1234:1234", replica.id, *target)
