"""Responses of a backend that has limits of its own, and of two limiters in a row."""

import copy
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.demo.stack import ADDRESS_HEADER
from tests.example_limits import NO_REFILL
from tests.system.changed_front import (
    OK,
    Backend,
    Config,
    changed_front,
    connection_manager,
    running_backend,
    unchanged,
    virtual_host,
)
from tests.system.conftest import Front
from tests.system.processes import line_with, started

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
EXT_AUTHZ = "envoy.filters.http.ext_authz"
OURS = ["global", "user", "user_api"]
THEIRS = {"ratelimit-policy": '"daily";q=100;w=86400', "ratelimit": '"daily";r=41;t=3600'}
RATE_LIMIT_FIELDS = ("ratelimit-policy", "ratelimit")


def response(status: str, fields: dict[str, str]) -> bytes:
    """Returns a response of the backend."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "content-length: 0", "", ""]).encode()


def names(reply: httpx.Response, field: str) -> list[str]:
    """Returns the names in a RateLimit field, whose lines are joined."""
    value: str = reply.headers.get(field, "")
    return [item.split(";")[0].strip('"') for item in value.split(", ") if item]


def two_filters(config: Config) -> None:
    """Adds a second ext_authz filter behind the first, which asks the same service."""
    filters = connection_manager(config)["http_filters"]
    (index,) = (n for n, one in enumerate(filters) if one["name"] == EXT_AUTHZ)
    filters.insert(index + 1, copy.deepcopy(filters[index]) | {"name": "second"})
    for route in virtual_host(config)["routes"]:
        route["typed_per_filter_config"]["second"] = route["typed_per_filter_config"][EXT_AUTHZ]


def without_theirs(config: Config) -> None:
    """Adds the line of docs/operations.md to the limited route."""
    (line,) = [line for line in OPERATIONS.splitlines() if line.startswith("response_headers_to_remove:")]
    virtual_host(config)["routes"][0] |= yaml.safe_load(line)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as running:
        yield running


@asynccontextmanager
async def fast_service(store_url: str) -> AsyncIterator[TcpAddress]:
    """Runs a replica on the transport `fast`."""
    flags = ("--transport", "fast", "--redis-url", store_url, "--listen", "127.0.0.1:0", "--leave-s", "0")
    async with started("serve", *flags, "--address-header", ADDRESS_HEADER) as process:
        host, _, port = json.loads(await line_with(process, '"listening"'))["address"].rpartition(":")
        yield TcpAddress(host, int(port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(front: Front) -> Front:
    """Sets limits that deny the fourth request of each user; each test has users of its own."""
    await front.set_limits(**NO_REFILL | {"global_capacity": 1000})
    return front


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["grpcio", "fast", "inside Envoy"])
async def http(
    request: pytest.FixtureRequest,
    limited: Front,
    backend: Backend,
    store_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an Envoy, for each way to run the service."""
    folder = tmp_path_factory.mktemp("envoy")
    if request.param == "fast":
        async with (
            fast_service(store_url) as replica,
            changed_front(folder, unchanged, replicas=[replica], backend=backend.address) as client,
        ):
            yield client
        return
    inside = store_url if request.param == "inside Envoy" else None
    replicas = limited.stack.replicas
    async with changed_front(
        folder, unchanged, replicas=replicas, backend=backend.address, inside=inside
    ) as client:
        yield client


async def get(http: httpx.AsyncClient, user: str) -> httpx.Response:
    return await http.get("/api/ping", headers={"X-User-Id": f"{user}-{http.base_url.port}"})


async def test_the_fields_of_the_backend_come_before_ours(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.response = response("200 OK", THEIRS)
    reply = await get(http, "both")
    for field in RATE_LIMIT_FIELDS:
        assert names(reply, field) == ["daily", *OURS]
        assert reply.headers[field].startswith(f"{THEIRS[field]}, ")


async def test_without_fields_of_the_backend_ours_come_once(
    http: httpx.AsyncClient, backend: Backend
) -> None:
    backend.response = OK
    reply = await get(http, "once")
    for field in RATE_LIMIT_FIELDS:
        assert names(reply, field) == OURS
        assert len(reply.headers.get_list(field)) == 1


async def test_a_denial_has_our_fields_once(http: httpx.AsyncClient, backend: Backend) -> None:
    backend.response = response("200 OK", THEIRS)
    denied = [await get(http, "denied") for _ in range(4)][3]
    assert denied.status_code == 429
    for field in (*RATE_LIMIT_FIELDS, "retry-after", "x-ratelimit-tier", "content-type"):
        assert len(denied.headers.get_list(field)) == 1
    assert [names(denied, field) for field in RATE_LIMIT_FIELDS] == [OURS, OURS]


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable", "404 Not Found"])
async def test_other_fields_of_a_refusal_by_the_backend_pass_unchanged(
    http: httpx.AsyncClient, backend: Backend, status: str
) -> None:
    own = {
        "retry-after": "77",
        "x-ratelimit-limit": "100",
        "x-ratelimit-remaining": "0",
        "x-ratelimit-tier": "theirs",
        "ratelimit-limit": "100",
        "content-type": "application/problem+json",
    }
    backend.response = response(status, own | THEIRS)
    reply = await get(http, status[:3])
    assert reply.status_code == int(status[:3])
    assert {name: reply.headers[name] for name in own} == own
    assert "x-envoy-ratelimited" not in reply.headers
    assert [names(reply, field) for field in RATE_LIMIT_FIELDS] == [["daily", *OURS]] * 2


async def test_several_field_lines_of_the_backend_are_kept_in_order(
    http: httpx.AsyncClient, backend: Backend
) -> None:
    backend.response = (
        b'HTTP/1.1 200 OK\r\nRateLimit: "a";r=1\r\nRateLimit: "b";r=2\r\ncontent-length: 0\r\n\r\n'
    )
    reply = await get(http, "lines")
    assert names(reply, "ratelimit") == ["a", "b", *OURS]
    assert names(reply, "ratelimit-policy") == OURS


async def test_two_limiters_in_a_row_add_the_fields_of_both(
    limited: Front, backend: Backend, tmp_path: Path
) -> None:
    """The second denies what the first allowed. Its response has its own fields first."""
    backend.response = response("200 OK", THEIRS)
    replicas = limited.stack.replicas
    async with changed_front(tmp_path, two_filters, replicas=replicas, backend=backend.address) as http:
        allowed, denied = await get(http, "row"), await get(http, "row")
    assert (allowed.status_code, denied.status_code) == (200, 429)
    for field in RATE_LIMIT_FIELDS:
        assert names(allowed, field) == ["daily", *OURS, *OURS]
        assert names(denied, field) == [*OURS, *OURS]
    left = [item for item in allowed.headers["ratelimit"].split(", ") if item.startswith('"user"')]
    assert [item.split(";")[1] for item in left] == ["r=3", "r=4"]  # the second filter took the second token
    assert denied.headers.get_list("retry-after") == ["1000000"]


async def test_an_envoy_behind_an_envoy_adds_the_fields_of_both(
    limited: Front, backend: Backend, tmp_path: Path
) -> None:
    backend.response = response("200 OK", THEIRS)
    replicas = limited.stack.replicas
    async with changed_front(tmp_path, unchanged, replicas=replicas, backend=backend.address) as inner:
        at = TcpAddress(inner.base_url.host, inner.base_url.port or 0)

        def forward_unchanged(config: Config) -> None:
            del virtual_host(config)["routes"][0]["route"]["prefix_rewrite"]

        async with changed_front(tmp_path, forward_unchanged, replicas=replicas, backend=at) as outer:
            allowed, denied = await get(outer, "nested"), await get(outer, "nested")
    assert (allowed.status_code, denied.status_code) == (200, 429)
    for field in RATE_LIMIT_FIELDS:
        assert names(allowed, field) == ["daily", *OURS, *OURS]
        assert names(denied, field) == [*OURS, *OURS]
    assert denied.headers.get_list("retry-after") == ["1000000"]


async def test_envoy_can_remove_the_fields_of_the_backend(
    limited: Front, backend: Backend, tmp_path: Path
) -> None:
    backend.response = response(
        "200 OK", {"ratelimit": "limit=100, remaining=4", "ratelimit-policy": "100;w=60"}
    )
    replicas = limited.stack.replicas
    async with changed_front(tmp_path, without_theirs, replicas=replicas, backend=backend.address) as http:
        reply = await get(http, "removed")
    assert [names(reply, field) for field in RATE_LIMIT_FIELDS] == [OURS, OURS]
