"""Requests through a real Envoy with the shipped configuration, three replicas and a real store."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from ratelimitd.address import TcpAddress
from tests.eventually import eventually
from tests.example_limits import NO_REFILL, assert_one_bucket, statuses
from tests.system.conftest import Front

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

LIMITED = {"global", "user:user1", "user:user1:api:/api/*"}
BY_ADDRESS = {"global", "user:ip=127.0.0.1", "user:ip=127.0.0.1:api:/api/*"}


async def test_ten_requests_at_once_take_three_tokens_from_each_bucket(front: Front) -> None:
    await front.set_limits(**NO_REFILL)
    replies = await front.get("user1", 10)
    assert statuses(replies) == {200: 3, 429: 7}
    taken = {key: round(tokens, 3) for key, tokens in (await front.buckets()).items()}
    assert taken == {"global": 7, "user:user1": 2, "user:user1:api:/api/*": 0}


async def test_two_seconds_later_by_the_clock_of_the_store_two_more_pass(front: Front) -> None:
    await front.set_limits()
    assert statuses(await front.get("user1", 10))[200] == 3
    emptied_us = int(await front.store.hget("rate:user:user1:api:/api/*", "last") or 0)

    async def two_seconds_passed() -> bool:
        seconds, micros = await front.store.time()
        return seconds * 1_000_000 + micros >= emptied_us + 2_000_000

    await eventually(two_seconds_passed, "two seconds on the store's clock")
    assert statuses(await front.get("user1", 10))[200] == 2


async def test_five_users_share_the_global_bucket(front: Front) -> None:
    """Ten of fifteen requests pass. A user that the global bucket denied keeps their own tokens."""
    await front.set_limits(**NO_REFILL)
    users = [f"user{n}" for n in range(5)]
    replies = await asyncio.gather(*(front.get(user, 3) for user in users))
    passed = {user: statuses(got).get(200, 0) for user, got in zip(users, replies, strict=True)}
    assert sum(passed.values()) == 10
    buckets = await front.buckets()
    assert {user: round(5 - buckets.get(f"user:{user}", 5)) for user in users} == passed
    tiers = {
        reply.headers["x-ratelimit-tier"] for got in replies for reply in got if reply.status_code == 429
    }
    assert tiers == {"global"}


async def test_three_replicas_under_load_share_one_bucket(front: Front) -> None:
    """Each replica decides some of the requests."""
    await front.set_limits(global_capacity=40, user_capacity=100, user_api_capacity=100, **NO_REFILL)
    before = await _requests_by_replica(front)
    replies = await asyncio.gather(*(front.get(f"user{n}", 10) for n in range(30)))
    assert_one_bucket([reply for got in replies for reply in got], 40)
    after = await _requests_by_replica(front)
    assert all(after[replica] > before[replica] for replica in after)
    assert len(after) == 3


async def _requests_by_replica(front: Front) -> dict[str, int]:
    async with httpx.AsyncClient(base_url=f"http://{front.stack.admin}", trust_env=False) as admin:
        lines = (await admin.get("/clusters")).text.splitlines()
    rows = [line.split("::") for line in lines]
    return {row[1]: int(row[3]) for row in rows if row[0] == "ratelimitd" and row[2] == "rq_total"}


async def test_an_allowed_response_has_rate_limit_headers_and_the_backends_body(
    front: Front,
) -> None:
    await front.set_limits()
    (reply,) = await front.get("user1", 1)
    assert reply.json() == {"service": "backend", "message": "response from backend"}
    assert reply.headers["ratelimit-policy"] == '"global";q=10;w=10, "user";q=5;w=5, "user_api";q=3;w=3'
    assert reply.headers["ratelimit"] == '"global";r=9;t=1, "user";r=4;t=1, "user_api";r=2;t=1'
    assert "x-ratelimit-tier" not in reply.headers


async def test_a_denied_response_has_its_status_body_and_headers(front: Front) -> None:
    await front.set_limits()
    denied = [reply for reply in await front.get("user1", 4) if reply.status_code == 429]
    assert denied[0].text == '{"error":"rate limit exceeded"}'
    wanted = {
        "content-type": "application/json",
        "retry-after": "1",
        "x-ratelimit-tier": "user_api",
        "x-envoy-ratelimited": "true",
    }
    assert {name: denied[0].headers[name] for name in wanted} == wanted
    assert "ratelimit" in denied[0].headers


async def test_the_backend_gets_the_request_without_the_prefix(front: Front) -> None:
    await front.set_limits()
    reply = await front.http.post("/api/orders/7?q=1", headers={"X-User-Id": "user1"})
    seen = reply.json()
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/orders/7", "q=1")
    assert seen["headers"]["x-user-id"] == "user1"


async def test_a_grpc_client_sees_resource_exhausted(front: Front) -> None:
    await front.set_limits()
    headers = {"X-User-Id": "user1", "Content-Type": "application/grpc"}
    replies = [await front.http.post("/api/some.Service/Call", headers=headers) for _ in range(4)]
    assert replies[3].headers["grpc-status"] == "8"
    assert replies[3].headers["grpc-message"] == '{"error":"rate limit exceeded"}'


async def test_the_access_log_holds_the_metadata_of_a_denial(front: Front) -> None:
    await front.set_limits()
    await front.get("user1", 4, path="/api/logged?secret=1")
    log = Path(front.stack.logs / "envoy.log")

    def denials() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["path"] == "/api/logged" and line["status"] == 429]

    async def logged() -> bool:
        return bool(denials())

    await eventually(logged, "an access log line of the denial")
    (line,) = denials()
    assert (line["outcome"], line["tier"], line["remaining"]) == ("denied", "user_api", 0)
    assert (line["flags"], line["details"], line["identity"]) == ("UAEX", "ext_authz_denied", "header")
    assert len(line["policy"]) == 12


async def test_a_script_flush_between_requests_goes_unnoticed(front: Front) -> None:
    await front.set_limits(**NO_REFILL)
    await front.get("user1", 2)
    await front.store.script_flush()
    assert statuses(await front.get("user1", 5)) == {200: 1, 429: 4}


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Ratelimitd-Client-Address", "X-Real-Ip"])
async def test_without_an_id_the_address_is_charged_whatever_the_client_claims(
    front: Front, header: str
) -> None:
    """Each request claims another address, and all share one bucket."""
    await front.set_limits(**NO_REFILL)
    replies = [await front.http.get("/api/ping", headers={header: f"198.51.100.{n}"}) for n in range(5)]
    assert statuses(replies) == {200: 3, 429: 2}
    assert (await front.buckets()).keys() == BY_ADDRESS


async def raw(address: TcpAddress, target: bytes, *header_lines: bytes) -> int:
    """Sends a request that no client library would send, and returns its status."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    lines = (b"GET " + target + b" HTTP/1.1", b"Host: test", b"Connection: close", *header_lines, b"", b"")
    writer.write(b"\r\n".join(lines))
    await writer.drain()
    status_line = await reader.readline()
    writer.close()
    return int(status_line.split(b" ", 2)[1])


def keys_of(identity: str) -> set[str]:
    """Returns the buckets that a request with this identity charges."""
    return {"global", f"user:{identity}", f"user:{identity}:api:/api/*"}


USER_1 = b"X-User-Id: user1"
STRANGE_IDS = [
    ((b"X-User-Id: a:api:/x",), 200, keys_of("a%3Aapi%3A%2Fx")),
    ((b"X-User-Id: rate:global",), 200, keys_of("rate%3Aglobal")),
    ((b"X-User-Id: 127.0.0.1",), 200, keys_of("127.0.0.1")),
    ((b"X-User-Id: ip=127.0.0.1",), 200, keys_of("ip%3D127.0.0.1")),
    ((b"X-User-Id: \xff\xfe",), 200, keys_of("%FF%FE")),
    ((b"X-User-Id: \xff",), 200, keys_of("%FF")),
    ((b"X-User-Id: Zo\xc3\xab",), 200, keys_of("Zo%C3%AB")),
    ((b"X-User-Id: tab\tinside",), 200, keys_of("tab%09inside")),
    ((b"X-User-Id: bell\x07",), 400, set()),
    ((b"X-User-Id: nul\x00",), 400, set()),
    (
        (
            b"X-User-Id: u1",
            b"X-User-Id: u2",
        ),
        200,
        BY_ADDRESS,
    ),
    ((b"X-User-Id: u1,u2",), 200, BY_ADDRESS),
    ((b"X-User-Id: ",), 200, BY_ADDRESS),
    ((b"X-User-Id:   user1  ",), 200, LIMITED),
    ((b"x-USER-id: user1",), 200, LIMITED),
    (
        (b"X-User-Id: " + b"x" * 10_240,),
        200,
        keys_of("sha256=" + hashlib.sha256(b"x" * 10_240).hexdigest()),
    ),
]
"""Header lines, the status of a request with them, and the buckets that it charges."""

SPELLINGS = [
    (b"/api/ping", 200, LIMITED),
    (b"/api/ping?x=/health", 200, LIMITED),
    (b"//api/ping", 200, LIMITED),
    (b"/api//ping", 200, LIMITED),
    (b"/api/%70ing", 200, LIMITED),
    (b"/%61pi/ping", 200, LIMITED),
    (b"/api/x/../ping", 200, LIMITED),
    (b"/health/../api/ping", 200, LIMITED),
    (b"/./api/./ping", 200, LIMITED),
    (b"/api/ping/", 200, LIMITED),
    (b"/api/PING", 200, LIMITED),
    (b"/api%2Fping", 307, set()),
    (b"/health/%2e%2e/api/ping", 200, LIMITED),
    (b"/api", 404, set()),
    (b"/API/ping", 404, set()),
    (b"/apix", 404, set()),
    (b"/", 404, set()),
    (b"/health", 200, set()),
    (b"/api/../health", 200, set()),
    (b"/health/", 404, set()),
    (b"http://elsewhere/api/ping", 200, LIMITED),
]
"""Request targets of user1, the status of each, and the buckets that it charges."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def charges(front: Front) -> dict[tuple[bytes, ...], tuple[int, set[str]]]:
    """Sends the requests above; returns the status and the charged buckets by target and header lines."""
    found = {}
    await front.set_limits()
    for request in (
        *((b"/api/ping", *lines) for lines, _, _ in STRANGE_IDS),
        *((target, USER_1) for target, _, _ in SPELLINGS),
    ):
        await front.fill()
        found[request] = await raw(front.stack.front, *request), set(await front.buckets())
    return found


@pytest.mark.parametrize(("lines", "status", "buckets"), STRANGE_IDS)
async def test_an_unusual_id_is_charged_to_its_own_bucket_or_refused(
    charges: dict[tuple[bytes, ...], tuple[int, set[str]]],
    lines: tuple[bytes, ...],
    status: int,
    buckets: set[str],
) -> None:
    assert charges[b"/api/ping", *lines] == (status, buckets)


@pytest.mark.parametrize(("target", "status", "buckets"), SPELLINGS)
async def test_no_spelling_of_a_path_escapes_its_bucket(
    charges: dict[tuple[bytes, ...], tuple[int, set[str]]], target: bytes, status: int, buckets: set[str]
) -> None:
    assert charges[target, USER_1] == (status, buckets)


async def test_health_is_never_limited_even_with_empty_buckets(front: Front) -> None:
    await front.set_limits(**NO_REFILL)
    await front.get("user1", 12)
    assert statuses(await front.get("user1", 20, path="/health")) == {200: 20}
