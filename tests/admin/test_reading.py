"""Reading over HTTP works for a user of Redis who may only read, and writes nothing."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from ratelimitd.admin.app import admin_app
from ratelimitd.control.control import Control
from ratelimitd.policy.text import digest_of
from ratelimitd.settings import Settings
from ratelimitd.store.client import open_client
from tests.admin.conftest import KEYS, READ_KEY, Connect, Service
from tests.admin.panel.browser import READ, browsing
from tests.example_limits import KEY, limits_json

V1 = "/admin/api/v1"
TEXT = limits_json(user_capacity=9)


@pytest.fixture
async def reading(store: Redis, store_url: str, settings: Settings) -> AsyncIterator[Control]:
    """Yields a control whose user may only read, on a store with a text that no revision records."""
    await store.acl_setuser(
        "reader", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-@write", "-@scripting"]
    )
    await store.set(KEY, TEXT)
    try:
        async with open_client(store_url.replace("://", "://reader:x@")) as client:
            yield Control(client, settings)
        assert await store.keys("*") == [KEY.encode()]
    finally:
        await store.acl_deluser("reader")


@pytest.mark.parametrize(
    "path",
    [
        "/readyz",
        "/metrics",
        "/admin/config",
        f"{V1}/policy",
        f"{V1}/policy/schema",
        f"{V1}/revisions",
        f"{V1}/revisions/0",
        f"{V1}/revisions/1",
        f"{V1}/status",
        f"{V1}/buckets?user=alice",
    ],
)
async def test_a_get_writes_nothing(
    reading: Control, settings: Settings, service: Service, connect: Connect, path: str
) -> None:
    app = admin_app(reading, KEYS, settings, service, refusal_delay_s=0)
    answer = await connect(app, READ_KEY).get(path)
    assert answer.status_code == 200
    if path in {f"{V1}/policy", f"{V1}/status"}:
        assert (answer.json()["revision"]["number"], answer.json()["recorded"]) == (1, False)
    if path == "/admin/config":
        assert answer.json()["user_capacity"] == 9


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("policy/validate", {"text": TEXT}),
        ("policy/diff", {"text": TEXT}),
        ("explain", {"path": "/", "user": "alice"}),
    ],
)
async def test_a_post_that_changes_nothing_writes_nothing(
    reading: Control, settings: Settings, connect: Connect, path: str, body: dict[str, str]
) -> None:
    app = admin_app(reading, KEYS, settings, Service(), refusal_delay_s=0)
    answer = await connect(app, READ_KEY).post(f"{V1}/{path}", json=body)
    assert answer.status_code == 200
    if path == "policy/diff":
        assert answer.json()["same"]


@pytest.mark.parametrize(
    "path",
    [
        "/admin",
        "/admin/usage",
        "/admin/limits",
        "/admin/edit",
        "/admin/edit?from=1",
        "/admin/history",
        "/admin/history/1",
        "/admin/replicas",
        "/admin/explain?path=/api/x&user=alice",
        "/admin/buckets?user=alice",
    ],
)
async def test_a_page_writes_nothing(reading: Control, path: str) -> None:
    async with browsing(reading) as browser:
        await browser.sign_in(READ)
        page = await browser.get(path)
    assert page.status_code == 200
    if path in {"/admin", "/admin/limits", "/admin/edit", "/admin/replicas"}:
        assert "is not recorded as a revision yet" in page.text
    if path == "/admin/history":
        assert digest_of(TEXT) in page.text
