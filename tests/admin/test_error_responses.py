"""Invalid input and a store outage get an error sentence."""

import asyncio
from unittest.mock import AsyncMock

import httpx
import pytest

from ratelimitd.admin.app import admin_app
from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.admin.error_responses import error_response
from ratelimitd.control.control import Control
from ratelimitd.errors import Problem, StoreError
from ratelimitd.settings import Settings
from tests.admin.conftest import KEYS, WRITE_KEY, Connect, Service

POLICY = "/admin/api/v1/policy"


EXPLAIN = "/admin/api/v1/explain"


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 422, "JSON object"),
        (b"null", 422, "JSON object"),
        (b"[]", 422, "JSON object"),
        (b"{", 400, "must be JSON"),
        (b"\xff", 400, "must be JSON"),
        (b"[" * 100_000, 400, "must be JSON"),
        (b'{"path": 1' + b"0" * 5000 + b"}", 400, "must be JSON"),
        (b"{}", 422, "path: is required"),
        (b'{"path": NaN}', 422, "path: must be a valid string"),
        (b'{"path": "/", "pth": 1}', 422, "pth: unknown field"),
        (b'{"path": "api"}', 422, "path: "),
        (b'{"path": "/", "user": "\\u0000"}', 422, "user: must be text without control characters"),
        (b'{"path": "/", "user": "\\ud800"}', 422, "user: must be text without control characters"),
        (b'{"path": "/", "headers": {"\\ud800": "x"}}', 422, "headers."),
        (b'{"path": "/", "headers": {"a b": "x"}}', 422, "headers.a b"),
        (b'{"path": "/", "context": {"a": 1}}', 422, "context.a: must be a valid string"),
        (b'{"path": "/", "address": "1.2.3.999"}', 422, "address: must be an IP address"),
        (b'{"path": "/", "address": "\\ud800"}', 422, "address: must be an IP address"),
    ],
)
async def test_an_invalid_body_gets_an_error_sentence(
    writer: httpx.AsyncClient, body: bytes, status: int, sentence: str
) -> None:
    answer = await writer.post(EXPLAIN, content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "problems"}
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("path", "/" * 8193, "path: must have at most 8192 characters"),
        ("user", "u" * 8193, "user: must have at most 8192 characters"),
        ("context", dict.fromkeys(map(str, range(101)), "x"), "context: must have at most 100 items"),
    ],
    ids=["path", "user", "context"],
)
async def test_a_value_that_is_too_long_gets_an_error_sentence(
    writer: httpx.AsyncClient, field: str, value: object, sentence: str
) -> None:
    answer = await writer.post(EXPLAIN, json={"path": "/"} | {field: value})
    assert (answer.status_code, answer.json()["error"]) == (422, sentence)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"author": "a" * 101}, "author: must have at most 100 characters"),
        ({"author": ""}, "author: must not be empty"),
        ({"author": "External"}, "author: must not be 'external'"),
        ({"author": "a\nb"}, "author: must be text without control characters"),
        ({"note": "n" * 501}, "note: must have at most 500 characters"),
        ({"note": "\x1b[31m"}, "note: must be text without control characters"),
        ({"wait_s": 61}, "wait_s: "),
        ({"wait_s": "1"}, "wait_s: must be a valid number"),
        ({"text": 1}, "text: must be a valid string"),
    ],
)
async def test_author_note_and_wait_are_limited(
    writer: httpx.AsyncClient, change: dict[str, object], sentence: str
) -> None:
    answer = await writer.put(POLICY, json={"text": "{}"} | change, headers={"if-match": "*"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize("text", ["\\ud800", '\\"\\\\ud800\\"', "\\u0000", "a: &a [*a]", "NaN", "[" * 1000])
async def test_an_invalid_policy_text_gets_an_error_sentence(writer: httpx.AsyncClient, text: str) -> None:
    body = b'{"text": "' + text.encode() + b'"}'
    reading = await writer.post(f"{POLICY}/validate", content=body, headers=JSON)
    assert (reading.status_code, reading.json()["valid"]) == (200, False)
    assert (await writer.post(f"{POLICY}/diff", content=body, headers=JSON)).status_code == 422
    assert (await writer.put(POLICY, content=body, headers=JSON | {"if-match": "*"})).status_code == 422


async def test_a_body_that_is_not_declared_as_json_is_refused(writer: httpx.AsyncClient) -> None:
    """A form on another site can send such a body, though not the key."""
    answer = await writer.post(EXPLAIN, content=b'{"path": "/"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]


async def test_unknown_paths_and_methods_get_an_error_sentence(writer: httpx.AsyncClient) -> None:
    missing = await writer.get("/admin/api/v1/nothing")
    assert (missing.status_code, missing.json()["problems"]) == (404, [])
    assert missing.json()["error"] == "nothing is served at /admin/api/v1/nothing"
    other = await writer.delete(POLICY)
    assert (other.status_code, other.headers["allow"]) == (405, "GET, PUT")
    assert other.json()["error"] == f"{POLICY} does not allow DELETE"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/healthz", {"GET", "HEAD"}),
        ("/metrics", {"GET", "HEAD"}),
        ("/admin/config", {"GET", "HEAD", "POST"}),
    ],
)
async def test_a_wrong_method_beside_the_panel_is_405(
    nobody: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    """The panel serves every other path, but must not answer for these."""
    other = await nobody.delete(path)
    assert (other.status_code, set(other.headers["allow"].split(", "))) == (405, allowed)
    assert other.json()["error"] == f"{path} does not allow DELETE"
    assert (await nobody.get(f"{path}/")).status_code in {401, 404}


def test_an_error_may_quote_text_that_utf_8_cannot_encode() -> None:
    answer = error_response(422, "got \ud800", [Problem("\ud800", "\udfff")])
    assert answer.body == b'{"error":"got ?","problems":[{"path":"?","reason":"?"}]}'


async def test_a_store_that_hangs_is_503(
    control: Control,
    settings: Settings,
    service: Service,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "current", asyncio.Event().wait)
    app = admin_app(control, KEYS, settings, service, deadlines=Deadlines(call_s=0.01))
    writer = connect(app, WRITE_KEY)
    for path in (POLICY, "/admin/config", "/readyz"):
        async with asyncio.timeout(5):
            answer = await writer.get(path)
        assert answer.status_code == 503
        late = "the store does not answer" if path == "/readyz" else "the store did not answer within 0.01 s"
        assert answer.json()["error"] == late


async def test_a_store_outage_during_the_wait_says_that_the_change_is_accepted(
    writer: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "status", AsyncMock(side_effect=StoreError("the store failed")))
    body = {"text": (await control.current()).revision.text, "wait_s": 1}
    answer = await writer.put(POLICY, json=body, headers={"if-match": "*"})
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("revision 1 is accepted; ")
