"""Keys in the X-Admin-Key header: what needs one, and how wrong keys are answered."""

import asyncio
from functools import partial

import httpx
import pytest
from structlog.testing import capture_logs

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import admin_app
from ratelimitd.admin.authentication import MAX_DELAYED
from ratelimitd.bounded_log import LINES_PER_MINUTE
from ratelimitd.control.control import Control
from ratelimitd.settings import Settings
from tests.admin.conftest import KEYS, WRITE_KEY, Connect, Service
from tests.eventually import eventually

POLICY = "/admin/api/v1/policy"


EXPLAIN = "/admin/api/v1/explain"


JSON = {"content-type": "application/json"}


MINUTE_S = 60.0


async def test_without_any_key_only_probes_and_metrics_answer(
    control: Control, settings: Settings, service: Service, connect: Connect
) -> None:
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
    for path in ("/healthz", "/readyz", "/metrics", "/admin/api/openapi.json"):
        assert (await nobody.get(path)).status_code == 200


async def test_a_store_outage_is_not_ready_but_alive(storeless: httpx.AsyncClient) -> None:
    """Restarting the admin service would not help."""
    assert (await storeless.get("/healthz")).status_code == 200
    ready = await storeless.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["error"] == "the store does not answer"  # no address: probes are public


async def test_a_missing_key_is_401_without_a_log_entry(nobody: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        answer = await nobody.put(POLICY, content=b"{", headers=JSON)
    assert answer.status_code == 401
    assert answer.json()["error"] == "the X-Admin-Key header is missing"
    assert "x-admin-key" in answer.headers["www-authenticate"].lower()
    assert logs == []


@pytest.mark.parametrize("key", ["", "wrong", WRITE_KEY[:-1], WRITE_KEY + "x", WRITE_KEY.upper(), "\xff"])
async def test_a_wrong_key_is_401_and_logged_without_the_key(nobody: httpx.AsyncClient, key: str) -> None:
    with capture_logs() as logs:
        answer = await nobody.get(POLICY, headers=[(b"x-admin-key", key.encode("latin-1"))])
    assert answer.status_code == 401
    assert logs == [{"event": "admin_key_refused", "client": "127.0.0.1", "log_level": "warning"}]


@pytest.mark.parametrize("key", ["old-key-0123456789", "new-key-0123456789"])
async def test_each_of_two_keys_is_valid(
    control: Control, settings: Settings, service: Service, connect: Connect, key: str
) -> None:
    keys = AdminKeys(("old-key-0123456789", "new-key-0123456789"), ())
    client = connect(admin_app(control, keys, settings, service, refusal_delay_s=0), key)
    assert (await client.get(POLICY)).status_code == 200


async def test_a_wrong_key_is_answered_late_and_a_valid_one_at_once(
    control: Control, settings: Settings, service: Service, connect: Connect
) -> None:
    """When too many answers are delayed, a wrong key gets 429 at once. All are counted, few are logged."""
    app = admin_app(control, KEYS, settings, service, refusal_delay_s=MINUTE_S)
    wrong, right = connect(app, "wrong"), connect(app, WRITE_KEY)
    with capture_logs() as logs:
        held = [asyncio.ensure_future(wrong.get(POLICY)) for _ in range(MAX_DELAYED)]

        async def counted(number: int) -> bool:
            return f"ratelimitd_admin_refused_keys_total {number}.0" in (await right.get("/metrics")).text

        await eventually(partial(counted, MAX_DELAYED), "all wrong keys are counted")
        refused = await wrong.get("/admin/config")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert (await right.get(POLICY)).status_code == 200
        assert await counted(MAX_DELAYED + 1)
        assert not any(answer.done() for answer in held)
        for answer in held:
            answer.cancel()
        await asyncio.gather(*held, return_exceptions=True)
        assert len(logs) == LINES_PER_MINUTE
        last = asyncio.ensure_future(wrong.get(POLICY))
        await eventually(partial(counted, MAX_DELAYED + 2), "another one is counted")
        assert await counted(MAX_DELAYED + 2)
        assert not last.done()
        last.cancel()
