"""Who comes in, what holds for every answer, and that nothing hostile gets more than a sentence."""

import asyncio
from collections.abc import AsyncIterator
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import admin_app
from ratelimitd.admin.authentication import MAX_DELAYED
from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.admin.error_responses import error_response
from ratelimitd.admin.middleware import MAX_BODY_BYTES, SECURITY_HEADERS, InternalErrors
from ratelimitd.control.control import Control
from ratelimitd.errors import Problem, StoreError
from ratelimitd.settings import Settings
from tests.admin.conftest import KEYS, WRITE_KEY, Connect, Service
from tests.waiting import eventually

POLICY = "/admin/api/v1/policy"
EXPLAIN = "/admin/api/v1/explain"
JSON = {"content-type": "application/json"}
MINUTE_S = 60.0


async def test_without_any_key_only_probes_and_metrics_answer(
    control: Control, settings: Settings, service: Service, connect: Connect
) -> None:
    """All else is 404 and says how to set a key; a header makes no difference."""
    client = connect(admin_app(control, AdminKeys((), ()), settings, service), "")
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await client.get(path)).status_code == 200
    for method, path in (
        ("GET", "/"),
        ("GET", "/admin"),
        ("POST", "/admin/login"),
        ("POST", "/admin/config"),
        ("GET", POLICY),
        ("GET", "/admin/api/openapi.json"),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == 404
        assert "RATELIMITD_ADMIN_KEY" in answer.json()["error"]


async def test_probes_metrics_and_the_openapi_need_no_key(nobody: httpx.AsyncClient) -> None:
    """Once keys are set, the shape of the API is no secret."""
    for path in ("/healthz", "/readyz", "/metrics", "/admin/api/openapi.json"):
        assert (await nobody.get(path)).status_code == 200


async def test_the_store_away_is_not_ready_and_yet_alive(storeless: httpx.AsyncClient) -> None:
    """Nobody restarts the admin service for the store's sake."""
    assert (await storeless.get("/healthz")).status_code == 200
    ready = await storeless.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["error"] == "the store does not answer"  # who has no key learns no address


async def test_a_missing_key_is_401_at_once_and_no_event(nobody: httpx.AsyncClient) -> None:
    """Somebody forgot it: that is no attack. The body is not looked at."""
    with capture_logs() as logs:
        answer = await nobody.put(POLICY, content=b"{", headers=JSON)
    assert answer.status_code == 401
    assert answer.json()["error"] == "the X-Admin-Key header is missing"
    assert "x-admin-key" in answer.headers["www-authenticate"].lower()
    assert logs == []


@pytest.mark.parametrize("key", ["", "wrong", WRITE_KEY[:-1], WRITE_KEY + "x", WRITE_KEY.upper(), "\xff"])
async def test_a_wrong_key_is_401_and_logged_without_the_key(nobody: httpx.AsyncClient, key: str) -> None:
    """The log has the address."""
    with capture_logs() as logs:
        answer = await nobody.get(POLICY, headers=[(b"x-admin-key", key.encode("latin-1"))])
    assert answer.status_code == 401
    assert logs == [{"event": "admin_key_refused", "client": "127.0.0.1", "log_level": "warning"}]


@pytest.mark.parametrize("key", ["old-key-0123456789", "new-key-0123456789"])
async def test_of_two_keys_each_is_right(
    control: Control, settings: Settings, service: Service, connect: Connect, key: str
) -> None:
    """So that they can be rotated."""
    keys = AdminKeys(("old-key-0123456789", "new-key-0123456789"), ())
    client = connect(admin_app(control, keys, settings, service, refusal_delay_s=0), key)
    assert (await client.get(POLICY)).status_code == 200


async def test_a_wrong_key_is_answered_late_and_a_right_one_at_once(
    control: Control, settings: Settings, service: Service, connect: Connect
) -> None:
    """Beyond so many that wait, a wrong one gets 429 at once, is counted, and fills no log."""
    app = admin_app(control, KEYS, settings, service, refusal_delay_s=MINUTE_S)
    wrong, right = connect(app, "wrong"), connect(app, WRITE_KEY)
    with capture_logs() as logs:
        held = [asyncio.ensure_future(wrong.get(POLICY)) for _ in range(MAX_DELAYED)]

        async def all_held() -> bool:
            return len(logs) == MAX_DELAYED

        await eventually(all_held, "all wrong keys logged")
        refused = await wrong.get("/admin/config")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await right.get(POLICY)).status_code == 200
        assert "ratelimitd_admin_refused_keys_total 17.0" in (await right.get("/metrics")).text
        assert not any(answer.done() for answer in held)
        for answer in held:
            answer.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert len(logs) == MAX_DELAYED
        last = asyncio.ensure_future(wrong.get(POLICY))
        await eventually(AsyncMock(side_effect=lambda: len(logs) > MAX_DELAYED), "one that may wait again")
        last.cancel()


async def test_every_answer_has_the_browsers_rules(
    nobody: httpx.AsyncClient, writer: httpx.AsyncClient
) -> None:
    """Pages, JSON and errors alike; no other site may read any of it, and nobody learns what serves it."""
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


async def test_a_session_belongs_to_the_panel_and_to_no_other_site(nobody: httpx.AsyncClient) -> None:
    """No script reads its cookie, the API never gets it, and a working day ends it."""
    cookie = (await nobody.get("/admin/login")).headers["set-cookie"].lower()
    assert cookie.startswith("ratelimitd_session=")
    assert {"path=/admin", "max-age=28800", "httponly", "samesite=strict"} <= set(cookie.split("; "))
    assert "set-cookie" not in (await nobody.get(POLICY)).headers


async def in_pieces(size_bytes: int) -> AsyncIterator[bytes]:
    """A body whose length nobody tells."""
    for _ in range(size_bytes // (1 << 16)):
        yield b" " * (1 << 16)


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", POLICY), ("POST", "/admin/config"), ("POST", "/admin/login")]
)
async def test_a_body_that_is_too_long_is_413(writer: httpx.AsyncClient, method: str, path: str) -> None:
    """Wherever it goes."""
    content = b" " * (MAX_BODY_BYTES + 1)
    answer = await writer.request(method, path, content=content, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 413
    assert answer.json()["error"] == f"the body must have at most {MAX_BODY_BYTES} bytes"


@pytest.mark.parametrize(("method", "path"), [("PUT", POLICY), ("POST", "/admin/config")])
async def test_a_body_whose_length_nobody_tells_is_413_too(
    writer: httpx.AsyncClient, method: str, path: str
) -> None:
    """As soon as it is too long."""
    content = in_pieces(MAX_BODY_BYTES + (1 << 16))
    answer = await writer.request(method, path, content=content, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 413


async def test_a_body_of_the_longest_length_is_read(writer: httpx.AsyncClient) -> None:
    """It is refused for what it says."""
    answer = await writer.put(POLICY, content=b" " * MAX_BODY_BYTES, headers=JSON | {"if-match": "*"})
    assert answer.status_code == 400


async def test_a_length_that_is_a_lie_is_no_way_around(app: Starlette) -> None:
    """What arrives is counted."""
    sent: list[Message] = []
    body = [{"type": "http.request", "body": b" " * MAX_BODY_BYTES, "more_body": True}] * 2
    lie = [
        (b"content-length", b"5"),
        (b"x-admin-key", WRITE_KEY.encode()),
        (b"content-type", b"application/json"),
    ]
    scope = {"type": "http", "method": "PUT", "path": POLICY, "query_string": b"", "headers": lie}
    await app(scope, AsyncMock(side_effect=body), AsyncMock(side_effect=sent.append))
    assert sent[0]["status"] == 413


def posted(path: str) -> Scope:
    """A request with a right key, and the kind of body that is read there."""
    kind = b"application/x-www-form-urlencoded" if path == "/admin/login" else b"application/json"
    headers = [(b"x-admin-key", WRITE_KEY.encode()), (b"content-type", kind)]
    return {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}


@pytest.mark.parametrize("path", [EXPLAIN, "/admin/config", "/admin/login"])
async def test_a_body_that_never_ends_is_408(
    app: Starlette, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Nobody is held for ever by who sends a part of it and no more."""
    monkeypatch.setattr("ratelimitd.admin.middleware.MAX_BODY_S", 0.01)
    sent: list[Message] = []
    parts: asyncio.Queue[Message] = asyncio.Queue()
    parts.put_nowait({"type": "http.request", "body": b"{", "more_body": True})
    async with asyncio.timeout(5):
        await app(posted(path), parts.get, AsyncMock(side_effect=sent.append))
    assert sent[0]["status"] == 408
    assert SECURITY_HEADERS["cache-control"].encode() in dict(sent[0]["headers"]).values()


@pytest.mark.parametrize("path", [EXPLAIN, "/admin/config", "/admin/login"])
async def test_who_leaves_within_a_body_is_no_defect(app: Starlette, path: str) -> None:
    """Else anybody could fill the log with tracebacks, without a key."""
    left = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    with capture_logs() as logs:
        await app(posted(path), AsyncMock(side_effect=left), AsyncMock())
    assert logs == []


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
        (b"{}", 422, "path: field required"),
        (b'{"path": NaN}', 422, "path: must be a valid string"),
        (b'{"path": "/", "pth": 1}', 422, "pth: extra inputs are not permitted"),
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
async def test_a_hostile_body_gets_a_sentence(
    writer: httpx.AsyncClient, body: bytes, status: int, sentence: str
) -> None:
    """In the shape of every error."""
    answer = await writer.post(EXPLAIN, content=body, headers=JSON)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "problems"}
    assert sentence in answer.json()["error"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"author": "a" * 101}, "author: "),
        ({"author": ""}, "author: "),
        ({"author": "External"}, "author: must be another"),
        ({"author": "a\nb"}, "author: must be text without control characters"),
        ({"note": "n" * 501}, "note: "),
        ({"note": "\x1b[31m"}, "note: must be text without control characters"),
        ({"wait_s": 61}, "wait_s: "),
        ({"wait_s": "1"}, "wait_s: must be a valid number"),
        ({"text": 1}, "text: must be a valid string"),
    ],
)
async def test_who_and_why_are_bounded(
    writer: httpx.AsyncClient, change: dict[str, object], sentence: str
) -> None:
    """They are shown in tables, and in terminals."""
    answer = await writer.put(POLICY, json={"text": "{}"} | change, headers={"if-match": "*"})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize("text", ["\\ud800", '\\"\\\\ud800\\"', "\\u0000", "a: &a [*a]", "NaN", "[" * 1000])
async def test_a_hostile_policy_gets_a_sentence(writer: httpx.AsyncClient, text: str) -> None:
    """Read, compared or put: 422, and validate tells the problems."""
    body = b'{"text": "' + text.encode() + b'"}'
    reading = await writer.post(f"{POLICY}/validate", content=body, headers=JSON)
    assert (reading.status_code, reading.json()["valid"]) == (200, False)
    assert (await writer.post(f"{POLICY}/diff", content=body, headers=JSON)).status_code == 422
    assert (await writer.put(POLICY, content=body, headers=JSON | {"if-match": "*"})).status_code == 422


async def test_a_body_that_is_not_declared_as_json_is_refused(writer: httpx.AsyncClient) -> None:
    """A form of another site can send such a body, though not the key."""
    answer = await writer.post(EXPLAIN, content=b'{"path": "/"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert "application/json" in answer.json()["error"]


async def test_what_is_not_there_and_what_is_not_taken_are_sentences(writer: httpx.AsyncClient) -> None:
    """404 and 405 in the shape of every error; 405 names what is taken."""
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
async def test_what_is_beside_the_panel_says_what_it_takes(
    nobody: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    """The panel, which takes what is left, does not answer for it; nor is anybody sent to another path."""
    other = await nobody.delete(path)
    assert (other.status_code, set(other.headers["allow"].split(", "))) == (405, allowed)
    assert other.json()["error"] == f"{path} does not allow DELETE"
    assert (await nobody.get(f"{path}/")).status_code in {401, 404}


@pytest.mark.parametrize("path", [POLICY, "/admin/config", "/readyz"])
async def test_what_nobody_expected_is_logged_and_500(
    writer: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """The caller learns where to look, and nothing of what went wrong."""
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


def test_a_sentence_may_quote_what_is_no_text() -> None:
    """Half a surrogate pair is not what an answer breaks on."""
    answer = error_response(422, "got \ud800", [Problem("\ud800", "\udfff")])
    assert answer.body == b'{"error":"got ?","problems":[{"path":"?","reason":"?"}]}'


async def test_an_answer_that_fails_halfway_is_cut_off() -> None:
    """No second answer is put behind the first half."""

    async def half(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    send = AsyncMock()
    app = InternalErrors(half)
    with capture_logs(), pytest.raises(RuntimeError):
        await app({"type": "http", "method": "GET", "path": "/"}, AsyncMock(), send)
    assert send.await_count == 1


async def test_a_store_that_hangs_is_503(
    control: Control,
    settings: Settings,
    service: Service,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing waits for ever."""
    monkeypatch.setattr(control, "current", asyncio.Event().wait)
    app = admin_app(control, KEYS, settings, service, deadlines=Deadlines(call_s=0.01))
    writer = connect(app, WRITE_KEY)
    for path in (POLICY, "/admin/config", "/readyz"):
        async with asyncio.timeout(5):
            answer = await writer.get(path)
        assert answer.status_code == 503
        late = "the store does not answer" if path == "/readyz" else "the store did not answer within 0.01 s"
        assert answer.json()["error"] == late


async def test_a_store_that_goes_away_during_the_wait_does_not_hide_the_change(
    writer: httpx.AsyncClient, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is told 503 knows that it is accepted."""
    monkeypatch.setattr(control, "wait", AsyncMock(side_effect=StoreError("the store failed")))
    body = {"text": (await control.current()).revision.text, "wait_s": 1}
    answer = await writer.put(POLICY, json=body, headers={"if-match": "*"})
    assert answer.status_code == 503
    assert answer.json()["error"].startswith("revision 1 is accepted; ")
