"""Security headers, limits on bodies, and internal errors."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from ratelimitd.admin.middleware import MAX_BODY_BYTES, SECURITY_HEADERS, InternalErrors
from ratelimitd.control.control import Control
from tests.admin.conftest import WRITE_KEY

POLICY = "/admin/api/v1/policy"


EXPLAIN = "/admin/api/v1/explain"


JSON = {"content-type": "application/json"}


async def test_every_response_has_the_security_headers(
    nobody: httpx.AsyncClient, writer: httpx.AsyncClient
) -> None:
    for answer in (
        await nobody.get("/healthz"),
        await nobody.get("/admin/login"),
        await nobody.get("/nothing"),
        await nobody.get(POLICY),
        await writer.get(POLICY, headers={"origin": "https://elsewhere.example"}),
        await writer.put(POLICY, content=b"x" * (MAX_BODY_BYTES + 1)),
        await writer.options(POLICY, headers={"access-control-request-method": "PUT"}),
    ):
        assert SECURITY_HEADERS.items() <= dict(answer.headers).items()
        assert "server" not in answer.headers
        assert not any(name.startswith("access-control") for name in answer.headers)
    rules = SECURITY_HEADERS["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(rules)
    assert all(rule.endswith((" 'none'", " 'self'")) for rule in rules)
    assert (SECURITY_HEADERS["x-content-type-options"], SECURITY_HEADERS["cache-control"]) == (
        "nosniff",
        "no-store",
    )
    assert SECURITY_HEADERS["referrer-policy"] == "no-referrer"


async def test_the_session_cookie_is_limited_to_the_panel(nobody: httpx.AsyncClient) -> None:
    cookie = (await nobody.get("/admin/login")).headers["set-cookie"].lower()
    assert cookie.startswith("ratelimitd_session=")
    assert {"path=/admin", "max-age=28800", "httponly", "samesite=strict"} <= set(cookie.split("; "))
    assert "set-cookie" not in (await nobody.get(POLICY)).headers


async def in_pieces(size_bytes: int) -> AsyncIterator[bytes]:
    """Yields a body without a declared length."""
    for _ in range(size_bytes // (1 << 16)):
        yield b" " * (1 << 16)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", POLICY), ("POST", "/admin/config"), ("POST", "/admin/login")]
)
async def test_a_body_that_is_too_long_is_413(writer: httpx.AsyncClient, method: str, path: str) -> None:
    content = b" " * (MAX_BODY_BYTES + 1)
    answer = await writer.request(method, path, content=content, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 413
    assert answer.json()["error"] == f"the body must have at most {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize(("method", "path"), [("PUT", POLICY), ("POST", "/admin/config")])
async def test_a_body_without_a_declared_length_is_413_as_soon_as_it_is_too_long(
    writer: httpx.AsyncClient, method: str, path: str
) -> None:
    content = in_pieces(MAX_BODY_BYTES + (1 << 16))
    answer = await writer.request(method, path, content=content, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 413


async def test_a_body_of_the_maximum_length_is_read(writer: httpx.AsyncClient) -> None:
    answer = await writer.put(POLICY, content=b" " * MAX_BODY_BYTES, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 400


async def test_a_wrong_content_length_does_not_raise_the_limit(app: Starlette) -> None:
    sent: list[Message] = []
    body = [{"type": "http.request", "body": b" " * MAX_BODY_BYTES, "more_body": True}] * 2
    headers = [
        (b"content-length", b"5"),
        (b"x-admin-key", WRITE_KEY.encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {"type": "http", "method": "PUT", "path": POLICY, "query_string": b"", "headers": headers}
    await app(scope, AsyncMock(side_effect=body), AsyncMock(side_effect=sent.append))
    assert sent[0]["status"] == 413


def posted(path: str) -> Scope:
    """Returns a request with a valid key and the content type that the path reads."""
    kind = b"application/x-www-form-urlencoded" if path == "/admin/login" else b"application/json"
    headers = [(b"x-admin-key", WRITE_KEY.encode()), (b"content-type", kind)]
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}


@pytest.mark.parametrize("path", [EXPLAIN, "/admin/config", "/admin/login"])
async def test_a_body_that_never_ends_is_408(
    app: Starlette, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("ratelimitd.admin.middleware.MAX_BODY_S", 0.01)
    sent: list[Message] = []
    parts: asyncio.Queue[Message] = asyncio.Queue()
    parts.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    async with asyncio.timeout(5):
        await app(posted(path), parts.get, AsyncMock(side_effect=sent.append))
    assert sent[0]["status"] == 408
    assert SECURITY_HEADERS["cache-control"].encode() in dict(sent[0]["headers"]).values()


@pytest.mark.parametrize("path", [EXPLAIN, "/admin/config", "/admin/login"])
async def test_a_client_that_disconnects_in_its_body_is_not_logged(app: Starlette, path: str) -> None:
    """Otherwise any client could fill the log with tracebacks, without a key."""
    left = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    with capture_logs() as logs:
        await app(posted(path), AsyncMock(side_effect=left), AsyncMock())
    assert logs == []


@pytest.mark.parametrize("path", [POLICY, "/admin/config", "/readyz"])
async def test_an_unexpected_exception_is_logged_and_500(
    writer: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(control, "current", AsyncMock(side_effect=RuntimeError("a secret")))
    with capture_logs() as logs:
        answer = await writer.get(path)
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "internal error; see admin_failed in the log of ratelimitd",
        "problems": [],
    }
    assert SECURITY_HEADERS.items() <= dict(answer.headers).items()
    assert len(logs) == 1
    expected = {
        "event": "admin_failed",
        "log_level": "error",
        "path": path,
        "method": "GET",
        "exc_info": True,
    }
    assert expected.items() <= logs[0].items()


async def test_a_response_that_fails_halfway_is_cut_off() -> None:

    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    send = AsyncMock()
    app = InternalErrors(half)
    with capture_logs(), pytest.raises(RuntimeError):
        await app({"type": "http", "method": "GET", "path": "/"}, AsyncMock(), send)
    assert send.await_count == 1
