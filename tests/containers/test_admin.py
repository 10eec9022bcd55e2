"""Tests of the admin service as compose starts it, and of the commands inside the image."""

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from ratelimitd.policy.text import digest_of
from tests.containers.conftest import Front
from tests.containers.engine import ADMIN_KEY
from tests.containers.forms import REPLICAS
from tests.example_limits import EXAMPLE_LIMITS, KEY, limits_json, statuses

pytestmark = pytest.mark.asyncio(loop_scope="session")

BLOCKING = """
tiers:
  global: { capacity: 1000, refill_rate: 1 }
  user: { capacity: 1000, refill_rate: 1 }
  user_api: { capacity: 1000, refill_rate: 1 }
routes:
  - { path: /api/ping, user_api: { capacity: 2, refill_rate: 0.000001 } }
overrides:
  users:
    mallory: { blocked: true }
"""


@pytest_asyncio.fixture(loop_scope="session")
async def admin(front: Front) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of the published port, with the admin key."""
    del front  # the project runs, with the example limits
    headers = {"X-Admin-Key": ADMIN_KEY}
    async with httpx.AsyncClient(
        base_url="http://127.0.0.1:9090", headers=headers, trust_env=False, timeout=30
    ) as client:
        yield client


async def test_flat_limits_are_shown_and_changed_over_http(front: Front, admin: httpx.AsyncClient) -> None:
    assert (await admin.get("/admin/config", headers={"X-Admin-Key": "wrong" * 5})).status_code == 401
    changed = EXAMPLE_LIMITS | {"user_capacity": 4}
    posted = await admin.post("/admin/config", json=changed)
    assert (posted.status_code, posted.json()) == (200, changed)
    assert (await admin.get("/admin/config")).json() == changed
    assert json.loads("".join(await front.project.redis("GET", KEY))) == changed


async def test_after_a_put_with_wait_the_next_request_meets_the_new_policy(
    front: Front, admin: httpx.AsyncClient
) -> None:
    """The policy is applied on three replicas and rolled back with one command."""
    before = await admin.get("/admin/api/v1/policy")
    body = {"text": BLOCKING, "note": "a block", "wait_s": 20}
    applied = await admin.put("/admin/api/v1/policy", json=body, headers={"If-Match": before.headers["etag"]})
    assert applied.status_code == 200, applied.text
    assert statuses(await front.get("mallory", 2)) == {403: 2}
    assert statuses(await front.get("alice", 5)) == {200: 2, 429: 3}
    explained = await admin.post("/admin/api/v1/explain", json={"path": "/api/ping", "user": "alice"})
    assert (explained.json()["outcome"], explained.json()["route"]) == ("denied", "routes[0]")
    dry_run = await admin.post(
        "/admin/api/v1/check", json={"path": "/api/ping", "user": "alice", "dry_run": True}
    )
    assert dry_run.json()["http_status"] == 429

    (replica, *_) = await front.replicas()
    number = str(before.json()["revision"]["number"])
    command = ("ratelimitd", "policy", "rollback", number, "--wait", "--json")
    await front.project.compose("exec", "-T", "ratelimitd", *command)
    assert statuses(await front.get("mallory", 1)) == {200: 1}
    status = (await admin.get("/admin/api/v1/status")).json()
    assert len(status["replicas"]) == REPLICAS
    assert replica.state == "running"


async def test_limits_written_with_redis_cli_become_a_revision(
    front: Front, admin: httpx.AsyncClient
) -> None:
    """The history shows it with the author `external`."""
    text = limits_json(user_capacity=7)
    await front.project.redis("SET", KEY, text)
    printed = await front.project.compose(
        "exec", "-T", "ratelimitd", "ratelimitd", "policy", "history", "--json"
    )
    newest = json.loads(printed)["revisions"][0]
    assert (newest["author"], newest["sha256"][:12]) == ("external", digest_of(text))
    assert (await admin.get("/healthz")).status_code == 200
