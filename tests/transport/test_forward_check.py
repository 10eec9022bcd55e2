"""Checks of proxies over HTTP, on the transport `fast`."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
import pytest_asyncio

from ratelimitd.address import TcpAddress
from ratelimitd.core.model import MICRO, OnStoreError
from ratelimitd.transport.forward_check import forward_check
from ratelimitd.transport.http_call import HttpCall
from tests.core.fakes import BrokenLimiter, OracleLimiter, decider_over
from tests.transport.conftest import serving_in_envoy
from tests.transport.http2 import CHECK, exchange

pytestmark = pytest.mark.asyncio(loop_scope="module")

GET_PING = {"x-forwarded-method": "GET", "x-forwarded-uri": "/api/ping?x=1"}
UNAVAILABLE = {"error": "rate limiter unavailable"}
FROM_1_TO_3 = [200, 200, 200, 429]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[httpx.AsyncClient, OracleLimiter]]:
    """Yields an HTTP/1.1 client of a service, and its limiter."""
    serve, limiter = serving_in_envoy(tmp_path_factory.mktemp("service")), OracleLimiter()
    async with (
        serve(limiter) as listener,
        httpx.AsyncClient(base_url=f"http://{listener.address}", trust_env=False) as client,
    ):
        yield client, limiter


@pytest.fixture
def http(service: tuple[httpx.AsyncClient, OracleLimiter]) -> httpx.AsyncClient:
    """Returns the client. All buckets are full."""
    client, limiter = service
    limiter.now_us += 3600 * MICRO
    return client


async def status_over_http2(http: httpx.AsyncClient, uri: bytes, user: bytes) -> int:
    at = TcpAddress(http.base_url.host, http.base_url.port or 0)
    reply = await exchange(
        at, [], method="GET", path="/check", content_type="text/plain", x_forwarded_uri=uri, x_user_id=user
    )
    return int(reply.headers[":status"])


async def statuses(http: httpx.AsyncClient, count: int, url: str = "/check", **headers: str) -> list[int]:
    fields = GET_PING | {name.replace("_", "-"): value for name, value in headers.items()}
    return [(await http.get(url, headers=fields)).status_code for _ in range(count)]


async def test_three_pass_and_the_fourth_gets_a_whole_denial(http: httpx.AsyncClient) -> None:
    url = "/check?api=/api/*"
    assert await statuses(http, 3, url, x_user_id="whole") == [200] * 3
    denied = await http.get(url, headers=GET_PING | {"x-user-id": "whole"})
    assert (denied.status_code, denied.json()) == (429, {"error": "rate limit exceeded"})
    assert denied.headers["retry-after"] == "1"
    assert denied.headers["x-ratelimit-tier"] == "user_api"
    assert denied.headers["content-type"] == "application/json"
    assert '"user_api";r=0' in denied.headers["ratelimit"]


async def test_an_allowed_response_is_empty_and_has_the_limits(http: httpx.AsyncClient) -> None:
    allowed = await http.get("/check", headers=GET_PING | {"x-user-id": "limits"})
    assert (allowed.status_code, allowed.content) == (200, b"")
    assert '"user";r=4' in allowed.headers["ratelimit"]
    assert not {"outcome", "identity", "remaining", "server"} & set(allowed.headers)


async def test_the_query_chooses_the_status_of_a_denial_and_adds_metadata(http: httpx.AsyncClient) -> None:
    url = "/check?denied_status=403&metadata=true&api=/api/*"
    assert await statuses(http, 4, url, x_user_id="query") == [200, 200, 200, 403]
    denied = await http.get(url, headers=GET_PING | {"x-user-id": "query"})
    metadata = {name: denied.headers[name] for name in ("outcome", "tier", "identity", "remaining")}
    assert metadata == {"outcome": "denied", "tier": "user_api", "identity": "header", "remaining": "0"}


async def test_the_query_may_have_escapes(http: httpx.AsyncClient) -> None:
    for url in ("/check?api=/api/*", "/check?api=%2Fapi%2F%2A", "/check?%61pi=/api/*"):
        assert 200 in await statuses(http, 1, url, x_user_id="escapes")
    assert await statuses(http, 1, "/check?api=/api/*", x_user_id="escapes") == [429]


async def test_the_last_forwarded_address_is_charged(http: httpx.AsyncClient) -> None:
    client = "198.51.100.1, 203.0.113.9"
    assert await statuses(http, 4, x_forwarded_for=client) == FROM_1_TO_3
    assert await statuses(http, 1, x_forwarded_for="203.0.113.9, 198.51.100.1") == [200]


async def test_both_protocols_and_every_method_are_served(http: httpx.AsyncClient) -> None:
    for number, method in enumerate(("GET", "HEAD", "POST", "OPTIONS", "DELETE")):
        response = await http.request(method, "/check", headers=GET_PING | {"x-user-id": f"method-{number}"})
        assert (response.status_code, response.content) == (200, b""), method
    assert await status_over_http2(http, b"/api/ping", b"http2") == 200


@pytest.mark.parametrize("protocol", ["http", "http2"])
async def test_bytes_that_are_not_utf8_stay_distinct(http: httpx.AsyncClient, protocol: str) -> None:
    async def status(user: bytes) -> int:
        if protocol == "http2":
            return await status_over_http2(http, b"/api/\xff", user)
        lines = [b"GET /check HTTP/1.1", b"Host: a", b"X-Forwarded-Uri: /api/\xff", b"X-User-Id: " + user]
        return (await raw(http, b"\r\n".join([*lines, b"Connection: close", b"", b""])))[0]

    assert [await status(b"\xff") for _ in range(4)] == FROM_1_TO_3
    assert await status(b"\xfe") == 200


async def raw(http: httpx.AsyncClient, data: bytes) -> list[int]:
    """Sends bytes and returns the statuses of the responses until the service closes the connection."""
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    try:
        writer.write(data)
        async with asyncio.timeout(30):
            received = await reader.read()
    finally:
        writer.close()
    return [int(status) for status in re.findall(rb"^HTTP/1\.1 ([0-9]{3})", received, re.MULTILINE)]


def lines_of(*lines: str, first: str = "GET /check HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: a", *lines, "", ""]).encode("latin-1")


URI, CLOSE, GRPC = "X-Forwarded-Uri: /api/ping", "Connection: close", "Content-Type: application/grpc"
LARGE = "x" * 1_000_000
DECIDED = {
    "body of 1 MB": (
        lines_of(URI, f"Content-Length: {len(LARGE)}", "X-User-Id: body", CLOSE) + LARGE.encode(),
        [200],
    ),
    "chunked body": (
        lines_of(URI, "Transfer-Encoding: chunked", "X-User-Id: chunked", CLOSE) + b"2\r\nhi\r\n0\r\n\r\n",
        [200],
    ),
    "trailer that names another path": (
        lines_of(URI, "Transfer-Encoding: chunked", "X-User-Id: trailer", CLOSE)
        + b"0\r\nX-Forwarded-Uri: /other\r\n\r\n",
        [200],
    ),
    "expected continue": (
        lines_of(URI, "Expect: 100-continue", "Content-Length: 2", "X-User-Id: expect", CLOSE) + b"hi",
        [100, 200],
    ),
    "pipelined": (
        lines_of(URI, "X-User-Id: p") * 4 + lines_of(URI, "X-User-Id: p", CLOSE),
        [*FROM_1_TO_3, 429],
    ),
    "denied, with the content-type of gRPC": (
        lines_of(URI, GRPC, "X-User-Id: g") * 3 + lines_of(URI, GRPC, "X-User-Id: g", CLOSE),
        FROM_1_TO_3,
    ),
    "upgrade": (
        lines_of(
            *(URI, "Connection: upgrade", "Upgrade: websocket", "X-User-Id: upgrade"),
            *("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"),
        ),
        [200],
    ),
    "broken escape in the query": (
        lines_of(URI, "X-User-Id: broken", CLOSE, first="GET /check?api=%zz%ff HTTP/1.1"),
        [200],
    ),
}
"""Unusual checks that are decided. Caddy asks with the headers of an upgrade when its client does."""

REFUSED = {
    "two paths": (lines_of(URI, "X-Forwarded-Uri: /other", CLOSE), 400),
    "two methods": (lines_of(URI, "X-Forwarded-Method: GET", "X-Forwarded-Method: PUT", CLOSE), 400),
    "two hosts": (lines_of(URI, "X-Forwarded-Host: a", "X-Forwarded-Host: b", CLOSE), 400),
    "two own hosts": (lines_of(URI, "Host: b", CLOSE), 400),
    "no host": (f"GET /check HTTP/1.1\r\n{URI}\r\n\r\n".encode(), 400),
    "path removed as a header of the connection": (
        lines_of(URI, "Connection: close, x-forwarded-uri"),
        400,
    ),
    "query of 50 kB": (lines_of(URI, CLOSE, first=f"GET /check?api={LARGE[:50_000]} HTTP/1.1"), 400),
    "200 headers": (lines_of(URI, *(f"A{n}: 1" for n in range(200)), CLOSE), 431),
    "200 headers, with the content-type of gRPC": (
        lines_of(URI, GRPC, *(f"A{n}: 1" for n in range(200)), CLOSE),
        431,
    ),
    "gRPC over HTTP/1.1": (lines_of(GRPC, CLOSE, first=f"POST {CHECK} HTTP/1.1"), 404),
    "wrong path, with the content-type of gRPC": (
        lines_of(URI, GRPC, CLOSE, first="POST /check/ HTTP/1.1"),
        404,
    ),
    "escape in the path of the check": (lines_of(URI, CLOSE, first="GET /%63heck HTTP/1.1"), 404),
    "CONNECT": (lines_of(URI, CLOSE, first="CONNECT a:1 HTTP/1.1"), 404),
    "HTTP/1.0": (lines_of(URI, first="GET /check HTTP/1.0"), 426),
    "two lengths": (lines_of(URI, "Content-Length: 0", "Content-Length: 5", CLOSE), 400),
    "length and chunks": (
        lines_of(URI, "Content-Length: 4", "Transfer-Encoding: chunked")
        + b"0\r\n\r\n"
        + lines_of(URI, CLOSE),
        400,
    ),
    "unknown transfer coding": (lines_of(URI, "Transfer-Encoding: xchunked", CLOSE), 501),
    "space before a colon": (lines_of(URI, "Transfer-Encoding : chunked", CLOSE), 400),
    "zero byte": (lines_of(URI, "X-User-Id: a\0b", CLOSE), 400),
    "TLS on a port without": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, 400),
}
"""Checks that are wrong, or that a proxy and a service could read differently."""


@pytest.mark.parametrize("name", DECIDED)
async def test_an_unusual_check_is_decided(http: httpx.AsyncClient, name: str) -> None:
    data, expected = DECIDED[name]
    assert await raw(http, data) == expected
    assert await statuses(http, 1, x_user_id=f"after-{name}") == [200]


async def test_wrong_checks_are_refused_and_the_service_goes_on(http: httpx.AsyncClient) -> None:
    """They are sent at the same time, because Envoy waits for a second before it closes a connection."""
    received = await asyncio.gather(*(raw(http, data) for data, _ in REFUSED.values()))
    assert dict(zip(REFUSED, received, strict=True)) == {
        name: [status] for name, (_, status) in REFUSED.items()
    }
    assert await statuses(http, 1, x_user_id="after-wrong-checks") == [200]


@pytest.mark.parametrize(
    ("url", "headers", "status", "problem"),
    [
        (
            "/check",
            {},
            400,
            "the header x-forwarded-uri is missing; expected the path of the client's request",
        ),
        ("/check", {"x-forwarded-uri": "api"}, 400, "the header x-forwarded-uri is 'api'; expected a path"),
        (
            "/check",
            {"x-forwarded-uri": "http://a/api"},
            400,
            "the header x-forwarded-uri is 'http://a/api'; expected a path, which begins with /",
        ),
        (
            "/check?denied_status=ok",
            GET_PING,
            400,
            "denied_status is 'ok'; expected a status from 400 to 599",
        ),
        ("/check?denied_status=200", GET_PING, 400, "denied_status is '200'; expected a status"),
        ("/check?metadata=yes", GET_PING, 400, "metadata is 'yes'; expected true or false"),
        ("/", GET_PING, 404, "a check over HTTP needs the path /check"),
        ("/hop?1", GET_PING, 404, "a check over HTTP needs the path /check"),
        ("/check/", GET_PING, 404, "a check over HTTP needs the path /check"),
    ],
)
async def test_a_wrong_check_is_never_allowed(
    http: httpx.AsyncClient, url: str, headers: Mapping[str, str], status: int, problem: str
) -> None:
    response = await http.get(url, headers=headers)
    assert response.status_code == status
    assert problem in response.json()["error"]


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [("deny", 503, UNAVAILABLE), ("envoy", 503, UNAVAILABLE), ("allow", 200, None)],
)
async def test_without_the_store_the_setting_decides(answer: str, status: int, body: object) -> None:
    check = forward_check(decider_over(BrokenLimiter(), OnStoreError(answer)))
    fields = [(name.encode(), value.encode()) for name, value in GET_PING.items()]
    response = await check(HttpCall("GET", b"", fields, "192.0.2.1"))
    assert response.status == status
    assert (json.loads(response.body) if response.body else None) == body
