"""Requests of browsers for scripts of another origin, with the CORS policy in the comment of envoy.yaml."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.process.loopback import LOOPBACK
from tests.example_limits import NO_REFILL
from tests.system.changed_front import Backend, changed_front, running_backend
from tests.system.conftest import Front
from tests.system.cors_recipe import ORIGIN, allow_scripts_of, cors_recipe

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

EXPOSED = "retry-after, ratelimit, ratelimit-policy, x-ratelimit-tier"
FROM_APP = {"origin": ORIGIN}
PREFLIGHT = FROM_APP | {
    "access-control-request-method": "POST",
    "access-control-request-headers": "x-user-id",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http_of_module(
    front: Front, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    folder, replicas = tmp_path_factory.mktemp("envoy"), front.stack.replicas
    change = allow_scripts_of(ORIGIN)
    async with changed_front(folder, change, replicas=replicas, backend=backend.address) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(http_of_module: httpx.AsyncClient, front: Front, backend: Backend) -> httpx.AsyncClient:
    """A client of the changed Envoy. All buckets are full, and no request has reached the backend."""
    await front.set_limits(**NO_REFILL)
    backend.heads.clear()
    return http_of_module


@pytest.mark.parametrize("path", ["/api/ping", "/health"])
async def test_a_preflight_is_answered_before_the_check(
    http: httpx.AsyncClient, front: Front, backend: Backend, path: str
) -> None:
    reply = await http.options(path, headers=PREFLIGHT)
    allowed = {
        name.removeprefix("access-control-"): value
        for name, value in reply.headers.items()
        if name.startswith("access-control-")
    }
    assert reply.status_code == 200
    assert allowed == {
        "allow-origin": ORIGIN,
        "allow-credentials": "true",
        "allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "allow-headers": "authorization, content-type, x-user-id",
        "expose-headers": EXPOSED,
        "max-age": "600",
    }
    assert (await front.buckets(), backend.heads) == ({}, [])


async def test_a_preflight_for_an_unknown_path_takes_no_token(http: httpx.AsyncClient, front: Front) -> None:
    """The CORS filter does nothing for a route with a direct_response."""
    assert (await http.options("/nothing", headers=PREFLIGHT)).status_code == 404
    assert await front.buckets() == {}


@pytest.mark.parametrize("origin", ["https://other.example.com", "null", "http://app.example.com"])
async def test_a_preflight_of_another_origin_takes_no_token_either(
    http: httpx.AsyncClient, front: Front, backend: Backend, origin: str
) -> None:
    reply = await http.options("/api/ping", headers=PREFLIGHT | {"origin": origin})
    assert "access-control-allow-origin" not in reply.headers
    assert (await front.buckets(), backend.heads) == ({}, [])


@pytest.mark.parametrize(
    "headers", [{}, FROM_APP, {"access-control-request-method": "GET"}], ids=["none", "origin", "method"]
)
async def test_an_options_request_that_is_not_a_preflight_is_limited(
    http: httpx.AsyncClient, front: Front, backend: Backend, headers: dict[str, str]
) -> None:
    await http.options("/api/ping", headers=headers | {"x-user-id": "user1"})
    assert (await front.buckets())["user:user1"] == 4
    assert [head.split()[0] for head in backend.heads] == ["OPTIONS"]


async def test_a_script_may_read_a_denial_and_its_fields(http: httpx.AsyncClient) -> None:
    replies = [await http.get("/api/ping", headers=FROM_APP | {"x-user-id": "user1"}) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert reply.headers["access-control-allow-credentials"] == "true"
        assert reply.headers["access-control-expose-headers"] == EXPOSED
    assert set(EXPOSED.split(", ")) <= set(replies[3].headers)


async def test_the_filter_replaces_the_cors_headers_of_the_backend(
    http: httpx.AsyncClient, backend: Backend
) -> None:
    own = backend.response
    backend.response = own.replace(b"\r\n", b"\r\naccess-control-allow-origin: *\r\n", 1)
    reply = await http.get("/api/ping", headers=FROM_APP | {"x-user-id": "user1"})
    backend.response = own
    assert reply.headers.get_list("access-control-allow-origin") == [ORIGIN]


async def test_a_script_of_another_origin_may_not_read_a_denial(http: httpx.AsyncClient) -> None:
    headers = {"origin": "https://other.example.com", "x-user-id": "user1"}
    replies = [await http.get("/api/ping", headers=headers) for _ in range(4)]
    assert replies[3].status_code == 429
    assert not [name for name in replies[3].headers if name.startswith("access-control-")]


async def test_a_script_may_read_that_no_replica_answers(backend: Backend, tmp_path: Path) -> None:
    nowhere = TcpAddress(LOOPBACK, 1)
    change = allow_scripts_of(ORIGIN)
    async with changed_front(tmp_path, change, replicas=[nowhere], backend=backend.address) as http:
        assert (await http.options("/api/ping", headers=PREFLIGHT)).status_code == 200
        reply = await http.get("/api/ping", headers=FROM_APP)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (503, ORIGIN)


async def test_the_documentation_has_the_same_policy() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    assert cors_recipe() in blocks
