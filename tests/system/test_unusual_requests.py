"""Unusual requests through Envoy: the status of each, what it charges, and whether it is forwarded."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml

from ratelimitd.address import TcpAddress
from tests.example_limits import NO_REFILL
from tests.system.changed_front import (
    Backend,
    Config,
    changed_front,
    connection_manager,
    running_backend,
    unchanged,
)
from tests.system.conftest import Front
from tests.transport.http2 import Reply, exchange

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
USER, ADDRESS = ("user1", 1), ("ip=127.0.0.1", 1)
TWICE = ("user1", 2)
NOBODY = ("", 0)

SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)
MASKED_HELLO = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
"""A WebSocket frame (RFC 6455 section 5.7)."""


def upgrade(protocol: str, path: str = "/api/live", user: str = "user1") -> bytes:
    """Returns a request to change the protocol of the connection."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: test",
        f"X-User-Id: {user}",
        "Connection: upgrade, http2-settings",
    ]
    lines += [f"Upgrade: {protocol}", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    return "\r\n".join([*lines, "", ""]).encode()


def request(line: str, *header_lines: str, body: str = "", last: bool = True) -> bytes:
    """Returns a request of user1. After the last one Envoy closes the connection."""
    lines = [line, "Host: test", "X-User-Id: user1", *header_lines, *(["Connection: close"] if last else [])]
    return "\r\n".join([*lines, "", body]).encode()


CHUNKED = "Transfer-Encoding: chunked"
LONG = "x" * 50_000

REQUESTS: dict[str, tuple[bytes, int, tuple[str, int], int]] = {
    # methods
    "HEAD": (request("HEAD /api/x HTTP/1.1"), 200, USER, 1),
    "OPTIONS": (request("OPTIONS /api/x HTTP/1.1"), 200, USER, 1),
    "TRACE": (request("TRACE /api/x HTTP/1.1"), 200, USER, 1),
    "DELETE": (request("DELETE /api/x HTTP/1.1"), 200, USER, 1),
    "PROPFIND": (request("PROPFIND /api/x HTTP/1.1"), 200, USER, 1),
    "method override": (request("POST /api/x HTTP/1.1", "X-HTTP-Method-Override: GET"), 200, USER, 1),
    "unknown method": (request("FOO /api/x HTTP/1.1"), 400, NOBODY, 0),
    "method in lower case": (request("get /api/x HTTP/1.1"), 400, NOBODY, 0),
    "CONNECT to a host": (request("CONNECT backend:9000 HTTP/1.1"), 404, NOBODY, 0),
    "CONNECT to a path": (request("CONNECT /api/x HTTP/1.1"), 400, NOBODY, 0),
    "OPTIONS *": (request("OPTIONS * HTTP/1.1"), 404, NOBODY, 0),
    "GET *": (request("GET * HTTP/1.1"), 400, NOBODY, 0),
    # upgrades
    "WebSocket": (upgrade("websocket"), 403, NOBODY, 0),
    "WebSocket on an unknown path": (upgrade("websocket", "/x"), 403, NOBODY, 0),
    "unknown upgrade": (upgrade("foo/2"), 403, NOBODY, 0),
    "TLS upgrade": (upgrade("TLS/1.2"), 403, NOBODY, 0),
    "upgrade to a UDP tunnel": (upgrade("connect-udp"), 404, NOBODY, 0),
    "h2c upgrade": (upgrade("h2c"), 200, USER, 1),
    # versions
    "HTTP/1.0": (request("GET /api/x HTTP/1.0"), 426, NOBODY, 0),
    "HTTP/0.9": (b"GET /api/x\r\n\r\n", 426, NOBODY, 0),
    "HTTP/2.0 as a request line": (request("GET /api/x HTTP/2.0"), 426, NOBODY, 0),
    # targets
    "absolute target": (request("GET http://elsewhere/api/x HTTP/1.1"), 200, USER, 1),
    "absolute target with capitals": (request("GET HTTP://elsewhere/api/x HTTP/1.1"), 200, USER, 1),
    "absolute target with https": (request("GET https://elsewhere/api/x HTTP/1.1"), 403, NOBODY, 0),
    "absolute target with ftp": (request("GET ftp://elsewhere/api/x HTTP/1.1"), 400, NOBODY, 0),
    "absolute target without a path": (request("GET http://elsewhere HTTP/1.1"), 404, NOBODY, 0),
    "fragment": (request("GET /api/x#part HTTP/1.1"), 400, NOBODY, 0),
    "space": (request("GET /api/x y HTTP/1.1"), 400, NOBODY, 0),
    "letters outside ASCII": (request("GET /api/café HTTP/1.1"), 400, NOBODY, 0),
    "encoded zero byte": (request("GET /api/%00 HTTP/1.1"), 400, NOBODY, 0),
    "broken encoding": (request("GET /api/%zz HTTP/1.1"), 200, USER, 1),
    "backslash": (request("GET /api\\x HTTP/1.1"), 200, USER, 1),
    "path of 50 kB": (request(f"GET /api/{LONG} HTTP/1.1"), 200, USER, 1),
    "query of 50 kB": (request(f"GET /api/x?{LONG} HTTP/1.1"), 200, USER, 1),
    "path of 100 kB": (request(f"GET /api/{LONG}{LONG} HTTP/1.1"), 431, NOBODY, 0),
    # headers
    "header of 50 kB": (request("GET /api/x HTTP/1.1", f"A: {LONG}"), 200, USER, 1),
    "header of 100 kB": (request("GET /api/x HTTP/1.1", f"A: {LONG}{LONG}"), 431, NOBODY, 0),
    "120 headers": (request("GET /api/x HTTP/1.1", *(f"A{n}: 1" for n in range(120))), 431, NOBODY, 0),
    "Connection names the id": (
        b"GET /api/x HTTP/1.1\r\nHost: test\r\nX-User-Id: user1\r\nConnection: close, x-user-id\r\n\r\n",
        200,
        ADDRESS,
        1,
    ),
    "id with underscores": (
        b"GET /api/x HTTP/1.1\r\nHost: test\r\nX_User_Id: user1\r\nConnection: close\r\n\r\n",
        200,
        ADDRESS,
        1,
    ),
    "no Host": (b"GET /api/x HTTP/1.1\r\nX-User-Id: user1\r\n\r\n", 400, NOBODY, 0),
    # bodies
    "Expect": (
        request("POST /api/x HTTP/1.1", "Expect: 100-continue", "Content-Length: 2", body="hi"),
        100,
        USER,
        1,
    ),
    "unknown Expect": (
        request("POST /api/x HTTP/1.1", "Expect: luck", "Content-Length: 2", body="hi"),
        200,
        USER,
        1,
    ),
    "chunked": (request("POST /api/x HTTP/1.1", CHUNKED, body="2\r\nhi\r\n0\r\n\r\n"), 200, USER, 1),
    "id in a trailer": (
        request("POST /api/x HTTP/1.1", CHUNKED, body="2\r\nhi\r\n0\r\nX-User-Id: user2\r\n\r\n"),
        200,
        USER,
        1,
    ),
    "two lengths": (
        request("POST /api/x HTTP/1.1", "Content-Length: 2", "Content-Length: 3", body="hi"),
        400,
        NOBODY,
        0,
    ),
    "length and chunked": (
        request("POST /api/x HTTP/1.1", "Content-Length: 2", CHUNKED, body="2\r\nhi\r\n0\r\n\r\n"),
        400,
        NOBODY,
        0,
    ),
    "compressed transfer": (
        request("POST /api/x HTTP/1.1", "Transfer-Encoding: gzip, chunked", body="0\r\n\r\n"),
        501,
        NOBODY,
        0,
    ),
    "pipelined": (
        request("GET /api/x HTTP/1.1", last=False) + request("GET /api/y HTTP/1.1"),
        200,
        TWICE,
        2,
    ),
}
"""By name: a request, its status, the user and the tokens that it charges, and how often it is forwarded."""


class Connection(NamedTuple):
    """A connection to Envoy."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> int:
        """Sends a request and returns the status of the response, after whose headers the reader stands."""
        self.writer.write(data)
        head = await self.reader.readuntil(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1])


async def connect(http: httpx.AsyncClient) -> Connection:
    return Connection(*await asyncio.open_connection(http.base_url.host, http.base_url.port))


def with_websockets(config: Config) -> None:
    """Changes the connection manager as docs/operations.md says."""
    section = OPERATIONS.read_text().partition("### WebSockets\n")[2]
    connection_manager(config).update(yaml.safe_load(section.partition("```yaml")[2].partition("```")[0]))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[Backend]:
    async with running_backend() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def limited(front: Front) -> Front:
    await front.set_limits(**NO_REFILL)
    return front


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http_of_module(
    limited: Front, backend: Backend, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    folder, replicas = tmp_path_factory.mktemp("envoy"), limited.stack.replicas
    async with changed_front(folder, unchanged, replicas=replicas, backend=backend.address) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(http_of_module: httpx.AsyncClient, limited: Front, backend: Backend) -> httpx.AsyncClient:
    """A client of the shipped Envoy. All buckets are full, and no request has reached the backend."""
    await limited.fill()
    backend.heads.clear()
    return http_of_module


def charged(who: str, tokens: int) -> dict[str, float]:
    """Returns the buckets after a user paid this many tokens."""
    if not who:
        return {}
    return {"global": 10 - tokens, f"user:{who}": 5 - tokens, f"user:{who}:api:/api/*": 3 - tokens}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_is_answered_charged_and_forwarded_as_documented(
    http: httpx.AsyncClient, front: Front, backend: Backend, name: str
) -> None:
    data, status, who, forwarded = REQUESTS[name]
    connection = await connect(http)
    assert await connection.send(data) == status
    if status == 100:
        assert await connection.send(b"") == 200
    if who == TWICE:
        await connection.reader.readexactly(len("ok"))
        assert await connection.send(b"") == 200
    connection.writer.close()
    await connection.writer.wait_closed()
    taken = {key: round(tokens, 3) for key, tokens in (await front.buckets()).items()}
    assert taken == charged(*who)
    assert len(backend.heads) == forwarded


async def test_http2_is_limited_like_http1(http: httpx.AsyncClient, front: Front) -> None:
    at = TcpAddress(http.base_url.host, http.base_url.port or 0)
    replies = [
        await exchange(at, [], path="/api/x", method="GET", x_user_id="h2", content_type="text/plain")
        for _ in range(4)
    ]
    assert [reply.headers[":status"] for reply in replies] == ["200"] * 3 + ["429"]
    assert (await front.buckets()).keys() == charged("h2", 3).keys()


async def open_websocket(http: httpx.AsyncClient, user: str) -> Reply:
    """Opens a WebSocket over HTTP/2 and sends a message."""
    at = TcpAddress(http.base_url.host, http.base_url.port or 0)
    return await exchange(
        at,
        [MASKED_HELLO],
        end=False,
        path="/api/live",
        protocol="websocket",
        x_user_id=user,
        content_type="text/plain",
    )


async def test_a_websocket_over_http2_ends_the_connection(
    http: httpx.AsyncClient, front: Front, backend: Backend
) -> None:
    with pytest.raises(ConnectionError):
        await open_websocket(http, "h2")
    assert (await front.buckets(), backend.heads) == ({}, [])


async def test_a_grpc_client_gets_the_status_of_a_denial(http: httpx.AsyncClient) -> None:
    """The backend is not a gRPC server, so calls that are allowed fail in another way."""
    async with grpc.aio.insecure_channel(f"{http.base_url.host}:{http.base_url.port}") as channel:
        call = channel.unary_unary(
            "/api/some.Service/Call", request_serializer=bytes, response_deserializer=bytes
        )
        errors = []
        for _ in range(4):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"", metadata=(("x-user-id", "grpc"),), timeout=10)
            errors.append(raised.value)
    assert [error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED for error in errors] == [False] * 3 + [True]
    assert errors[3].details() == '{"error":"rate limit exceeded"}'
    fields = [*(errors[3].initial_metadata() or ()), *(errors[3].trailing_metadata() or ())]
    assert ("x-ratelimit-tier", "user_api") in fields


async def test_with_the_documented_lines_a_websocket_takes_one_token(
    limited: Front, backend: Backend, tmp_path: Path
) -> None:
    """Messages are free. The handshake that the limit denies does not reach the backend."""
    await limited.fill()
    backend.heads.clear()
    backend.response, before = SWITCHED, backend.response
    replicas = limited.stack.replicas
    async with changed_front(tmp_path, with_websockets, replicas=replicas, backend=backend.address) as http:
        connections = [await connect(http) for _ in range(6)]
        statuses = [await one.send(upgrade("websocket", user="ws")) for one in connections[:4]]
        for one in connections[:3]:
            one.writer.write(MASKED_HELLO * 20)
            assert await one.reader.readexactly(20 * len(MASKED_HELLO)) == MASKED_HELLO * 20
        unknown = await connections[4].send(upgrade("websocket", "/x"))
        other = await connections[5].send(upgrade("foo/2"))
        over_http2 = [await open_websocket(http, "h2") for _ in range(4)]
        for one in connections:
            one.writer.close()
            await one.writer.wait_closed()
    backend.response = before
    assert (statuses, unknown, other) == ([101, 101, 101, 429], 404, 403)
    assert [(reply.headers[":status"], reply.body) for reply in over_http2[:3]] == [("200", MASKED_HELLO)] * 3
    assert over_http2[3].headers[":status"] == "429"
    assert len(backend.heads) == 6
    buckets = await limited.buckets()
    assert (buckets["user:ws"], buckets["user:h2"]) == (2, 2)
