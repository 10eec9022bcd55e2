"""Tests with grpcurl, which finds and calls the services by reflection."""

import json
import shutil

import pytest
from google.protobuf import json_format

from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse
from tests.containers.conftest import Front, target
from tests.containers.engine import run
from tests.containers.forms import REPLICAS
from tests.example_limits import NO_REFILL
from tests.required_programs import PATH, need

pytestmark = pytest.mark.asyncio(loop_scope="session")

AUTHORIZATION = "envoy.service.auth.v3.Authorization"
HEALTH = "grpc.health.v1.Health"


@pytest.fixture
def grpcurl() -> str:
    """Returns the path of the program."""
    need("grpcurl")
    return str(shutil.which("grpcurl", path=PATH))


async def address(front: Front, replica: int = 0) -> str:
    """Returns the published address of a replica."""
    return target((await front.replicas())[replica])


async def check(grpcurl: str, at: str, user: str) -> CheckResponse:
    """Returns the response of a replica, parsed from the JSON that grpcurl prints."""
    request = {
        "attributes": {
            "request": {"http": {"method": "GET", "path": "/api/ping", "headers": {"x-user-id": user}}},
            "contextExtensions": {"api": "/api/*"},
        }
    }
    response = await run(grpcurl, "-plaintext", "-d", json.dumps(request), at, f"{AUTHORIZATION}/Check")
    return json_format.Parse(response, CheckResponse())


async def test_reflection_lists_the_services(front: Front, grpcurl: str) -> None:
    listed = (await run(grpcurl, "-plaintext", await address(front), "list")).splitlines()
    assert {AUTHORIZATION, HEALTH} <= set(listed)


async def test_reflection_describes_the_check_call(front: Front, grpcurl: str) -> None:
    described = await run(grpcurl, "-plaintext", await address(front), "describe", AUTHORIZATION)
    assert "rpc Check ( .envoy.service.auth.v3.CheckRequest )" in described
    assert "returns ( .envoy.service.auth.v3.CheckResponse )" in described


async def test_all_replicas_deny_once_the_shared_bucket_is_empty(front: Front, grpcurl: str) -> None:
    """Each replica allows one of three requests; then all of them deny."""
    await front.set_limits(**NO_REFILL)
    targets = [target(replica) for replica in await front.replicas()]
    first = [await check(grpcurl, at, "grpcurl") for at in targets]
    assert [(response.status.code, response.HasField("ok_response")) for response in first] == [
        (0, True)
    ] * REPLICAS
    later = [await check(grpcurl, at, "grpcurl") for at in targets]
    assert [response.status.code for response in later] == [8] * REPLICAS
    assert {response.denied_response.status.code for response in later} == {429}
    assert {response.denied_response.body for response in later} == {'{"error":"rate limit exceeded"}'}


@pytest.mark.parametrize("service", ["", AUTHORIZATION])
async def test_the_health_check_answers_serving(front: Front, grpcurl: str, service: str) -> None:
    request = json.dumps({"service": service})
    response = await run(grpcurl, "-plaintext", "-d", request, await address(front), f"{HEALTH}/Check")
    assert json.loads(response) == {"status": "SERVING"}


async def test_port_50051_of_this_machine_reaches_the_service(front: Front, grpcurl: str) -> None:
    """The number of replicas does not matter: Envoy forwards the connections."""
    at = "localhost:50051"
    listed = (await run(grpcurl, "-plaintext", at, "list")).splitlines()
    assert {AUTHORIZATION, HEALTH} <= set(listed)
    assert json.loads(await run(grpcurl, "-plaintext", at, f"{HEALTH}/Check")) == {"status": "SERVING"}
    await front.set_limits(**NO_REFILL)
    answers = [await check(grpcurl, at, "forwarded") for _ in range(REPLICAS + 1)]
    assert [response.status.code for response in answers] == [0, 0, 0, 8]
