"""grpcurl, which has no .proto of ours, finds and calls everything by reflection."""

import json
import shutil

import pytest
from google.protobuf import json_format

from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from tests.containers.conftest import REPLICAS, Front, target
from tests.containers.engine import run
from tests.limits import STILL
from tests.programs import PATH, need

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
HEALTH = "grpc.health.v1.Health"


@pytest.fixture
def grpcurl() -> str:
    """The tool's path."""
    need("grpcurl")
    return str(shutil.which("grpcurl", path=PATH))


async def address(front: Front, replica: int = 0) -> str:
    """Where a replica is published on loopback."""
    return target((await front.replicas())[replica])


async def check(grpcurl: str, at: str, user: str) -> CheckResponse:
    """The answer of a replica, read from the JSON that grpcurl prints."""
    request = {
        "attributes": {
            "request": {"http": {"method": "GET", "path": "/api/ping", "headers": {"x-user-id": user}}},
            "contextExtensions": {"api": "/api/*"},
        }
    }
    answer = await run(grpcurl, "-plaintext", "-d", json.dumps(request), at, f"{AUTHORIZATION}/Check")
    return json_format.Parse(answer, CheckResponse())


async def test_the_services_are_listed(front: Front, grpcurl: str) -> None:
    """Check and health."""
    listed = (await run(grpcurl, "-plaintext", await address(front), "list")).splitlines()
    assert {AUTHORIZATION, HEALTH} <= set(listed)


async def test_the_call_is_described(front: Front, grpcurl: str) -> None:
    """With the names that Envoy uses."""
    described = await run(grpcurl, "-plaintext", await address(front), "describe", AUTHORIZATION)
    assert "rpc Check ( .envoy.service.auth.v3.CheckRequest )" in described
    assert "returns ( .envoy.service.auth.v3.CheckResponse )" in described


async def test_check_answers_ok_and_then_429_whichever_replica_is_asked(front: Front, grpcurl: str) -> None:
    """Three pass, one on each replica; then each of them says no."""
    await front.set_limits(**STILL)
    targets = [target(replica) for replica in await front.replicas()]
    first = [await check(grpcurl, at, "grpcurl") for at in targets]
    assert [(answer.status.code, answer.HasField("ok_response")) for answer in first] == [
        (0, True)
    ] * REPLICAS
    later = [await check(grpcurl, at, "grpcurl") for at in targets]
    assert [answer.status.code for answer in later] == [8] * REPLICAS
    assert {answer.denied_response.status.code for answer in later} == {429}
    assert {answer.denied_response.body for answer in later} == {'{"error":"rate limit exceeded"}'}


@pytest.mark.parametrize("service", ["", AUTHORIZATION])
async def test_health_is_serving(front: Front, grpcurl: str, service: str) -> None:
    """As a whole, and for the service that Envoy's health check names."""
    request = json.dumps({"service": service})
    answer = await run(grpcurl, "-plaintext", "-d", request, await address(front), f"{HEALTH}/Check")
    assert json.loads(answer) == {"status": "SERVING"}
