"""Requests with a body, where Envoy sends bodies to the check as docs/operations.md recommends."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ratelimitd.address import TcpAddress
from ratelimitd.process.loopback import LOOPBACK
from tests.example_limits import NO_REFILL
from tests.system.changed_front import OK, Config, changed_front, http_filters, virtual_host
from tests.system.conftest import Front

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

EXT_AUTHZ = "envoy.filters.http.ext_authz"
OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
SECTION = OPERATIONS.partition("### Request bodies in the check\n")[2].partition("\n### ")[0]
BODIES = [b"", b"x" * 100, b"\xff\xfe\x00" * 100, b"x" * 40_000, b"\xff" * 262_144, b"x" * 3_145_728]


def documented(field: str) -> Any:
    """Returns the value of a field that docs/operations.md recommends."""
    (line,) = re.findall(rf"`({field}: .*?)`", SECTION)
    return yaml.safe_load(line)[field]


def first_bytes_only(config: Config) -> None:
    """Sends the beginning of each body to the check."""
    http_filters(config)[EXT_AUTHZ]["with_request_body"] = documented("with_request_body")


def not_on_this_route(config: Config) -> None:
    """Sends bodies to the check, but not on the limited route."""
    http_filters(config)[EXT_AUTHZ]["with_request_body"] = {"max_request_bytes": 1_048_576}
    settings = virtual_host(config)["routes"][0]["typed_per_filter_config"][EXT_AUTHZ]["check_settings"]
    settings["disable_request_body_buffering"] = documented("disable_request_body_buffering")


def beyond_the_buffer(config: Config) -> None:
    """Sends more of a body to the check than Envoy buffers."""
    first_bytes_only(config)
    http_filters(config)[EXT_AUTHZ]["with_request_body"]["max_request_bytes"] = 1_048_576


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reads a request with its body, and answers."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search(r"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(OK)
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # Envoy refused the request, or closed an idle connection
    finally:
        writer.close()


@asynccontextmanager
async def front_with(change: Any, front: Front, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Runs an Envoy with a change, in which a failed check lets the request through."""

    def lenient(config: Config) -> None:
        change(config)
        http_filters(config)[EXT_AUTHZ]["failure_mode_allow"] = True

    await front.set_limits(**NO_REFILL | {"user_capacity": 100, "user_api_capacity": 100})
    async with await asyncio.start_server(answer, LOOPBACK, 0) as server:
        backend = TcpAddress(LOOPBACK, server.sockets[0].getsockname()[1])
        async with changed_front(folder, lenient, replicas=front.stack.replicas, backend=backend) as client:
            yield client


@pytest.mark.parametrize("change", [first_bytes_only, not_on_this_route])
async def test_neither_length_nor_bytes_of_a_body_matter(front: Front, tmp_path: Path, change: Any) -> None:
    async with front_with(change, front, tmp_path) as http:
        replies = [await http.post("/api/x", content=body, headers={"x-user-id": "u"}) for body in BODIES]
    assert [reply.status_code for reply in replies] == [200] * len(BODIES)
    assert (await front.buckets())["global"] == 10 - len(BODIES)


async def test_a_body_beyond_the_buffer_of_envoy_is_refused_without_a_charge(
    front: Front, tmp_path: Path
) -> None:
    async with front_with(beyond_the_buffer, front, tmp_path) as http:
        reply = await http.post("/api/x", content=BODIES[-1], headers={"x-user-id": "u"})
    assert reply.status_code == 413
    assert await front.buckets() == {}
