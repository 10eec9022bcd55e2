"""The API: every operation, its preconditions and its errors."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.core.model import MICRO, Request
from ratelimitd.errors import CheckCallError
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.rollout.replicas import Replicas
from tests.admin.conftest import READ_KEY, WRITE_KEY, Service, run_replica
from tests.example_limits import KEY, limits_json
from tests.replicas import replica

V1 = "/admin/api/v1"
ANY = {"if-match": "*"}
FULL = """
tiers:
  global: {capacity: 500, refill_rate: 50}
  user: {capacity: 5, rate: 60/min}
  user_api: off
routes:
  - {path: /api/search, cost: 3}
overrides:
  users:
    mallory: {blocked: true}
    vip: {exempt: true}
"""


async def put(client: httpx.AsyncClient, text: str, match: str = "*", **more: object) -> httpx.Response:
    """Sends a policy to PUT /policy."""
    return await client.put(f"{V1}/policy", json={"text": text, **more}, headers={"if-match": match})


async def explained(client: httpx.AsyncClient, **question: object) -> Mapping[str, Any]:
    """Returns the explanation of a request."""
    answer = await client.post(f"{V1}/explain", json=question)
    assert answer.status_code == 200, answer.text
    found: Mapping[str, Any] = answer.json()
    return found


async def test_the_defaults_are_revision_0(reader: httpx.AsyncClient) -> None:
    answer = await reader.get(f"{V1}/policy")
    assert answer.status_code == 200
    assert answer.headers["etag"] == f'"0-{digest_of(DEFAULT_TEXT)}"'
    revision = answer.json()["revision"]
    assert (revision["number"], revision["text"], revision["at"]) == (0, DEFAULT_TEXT, None)


async def test_a_change_is_a_revision_with_its_author_note_and_time(writer: httpx.AsyncClient) -> None:
    before = await writer.get(f"{V1}/policy")
    answer = await put(writer, limits_json(), before.headers["etag"], author="alice", note="tighter")
    assert answer.status_code == 200
    revision = answer.json()["revision"]
    assert (revision["number"], revision["author"], revision["note"]) == (1, "alice", "tighter")
    assert revision["at"].endswith("Z")
    after = await writer.get(f"{V1}/policy")
    assert after.headers["etag"] == answer.headers["etag"] == f'"1-{digest_of(limits_json())}"'
    assert after.json()["revision"] == revision | {"text": limits_json()}
    assert (await writer.get(f"{V1}/revisions")).json() == {"revisions": [revision]}
    assert (await writer.get(f"{V1}/revisions/1")).json()["text"] == limits_json()


async def test_the_author_is_admin_by_default(writer: httpx.AsyncClient) -> None:
    assert (await put(writer, limits_json())).json()["revision"]["author"] == "admin"


async def test_if_none_match_with_the_current_tag_is_304(writer: httpx.AsyncClient) -> None:
    tag = (await writer.get(f"{V1}/policy")).headers["etag"]
    for known in (tag, f"W/{tag}", f'"9-ffffffffffff", {tag}', "*"):
        answer = await writer.get(f"{V1}/policy", headers={"if-none-match": known})
        assert (answer.status_code, answer.headers["etag"], answer.content) == (304, tag, b"")
    await put(writer, limits_json())
    answer = await writer.get(f"{V1}/policy", headers={"if-none-match": tag})
    assert answer.status_code == 200


async def test_a_change_without_if_match_is_428(writer: httpx.AsyncClient) -> None:
    for answer in (
        await writer.put(f"{V1}/policy", json={"text": limits_json()}),
        await writer.post(f"{V1}/policy/rollback", json={"to": 0}),
    ):
        assert answer.status_code == 428
        assert "If-Match" in answer.json()["error"]
    assert (await writer.get(f"{V1}/revisions")).json() == {"revisions": []}


@pytest.mark.parametrize("known", ['"0-ffffffffffff"', 'W/"1-{sha}"', "nonsense", "", "a*b", '"a", *'])
async def test_a_change_with_an_outdated_tag_is_412(writer: httpx.AsyncClient, known: str) -> None:
    """If-Match compares strongly, so a weak tag never matches (RFC 9110 section 13.1.1)."""
    await put(writer, limits_json(), author="bob")
    answer = await put(writer, limits_json(user_capacity=9), known.format(sha=digest_of(limits_json())))
    assert answer.status_code == 412
    assert "revision 1 by bob" in answer.json()["error"]
    assert (await writer.get(f"{V1}/policy")).json()["revision"]["number"] == 1


async def test_if_match_may_list_several_tags(writer: httpx.AsyncClient) -> None:
    """One line or several lines mean the same (RFC 9110 section 5.3)."""
    tag = (await writer.get(f"{V1}/policy")).headers["etag"]
    done = await put(writer, limits_json(), f'"9-ffffffffffff", {tag}')
    lines = [("if-match", '"9-ffffffffffff"'), ("if-match", done.headers["etag"])]
    again = await writer.put(f"{V1}/policy", json={"text": limits_json()}, headers=lines)
    assert (done.status_code, again.status_code) == (200, 200)


async def test_of_two_concurrent_changes_one_is_412(writer: httpx.AsyncClient) -> None:
    tag = (await writer.get(f"{V1}/policy")).headers["etag"]
    answers = await asyncio.gather(*(put(writer, limits_json(user_capacity=n), tag) for n in (6, 7)))
    assert sorted(answer.status_code for answer in answers) == [200, 412]
    assert len((await writer.get(f"{V1}/revisions")).json()["revisions"]) == 1


async def test_an_invalid_policy_is_refused_with_all_its_problems(writer: httpx.AsyncClient) -> None:
    text = FULL.replace("cost: 3", "cost: -1").replace("capacity: 5,", "capacity: 0,")
    answer = await put(writer, text)
    assert answer.status_code == 422
    problems = answer.json()["problems"]
    assert {problem["path"] for problem in problems} == {"tiers.user.capacity", "routes[0].cost"}
    assert all(problem["reason"] in answer.json()["error"] for problem in problems)
    reading = (await writer.post(f"{V1}/policy/validate", json={"text": text})).json()
    assert reading == {"valid": False, "problems": problems, "advice": []}
    assert (await writer.get(f"{V1}/revisions")).json() == {"revisions": []}


async def test_a_change_returns_the_advice_on_its_policy(writer: httpx.AsyncClient) -> None:
    text = FULL.replace("overrides:", "  - {path: /api/search, methods: [GET]}\noverrides:")
    advice = (await writer.post(f"{V1}/policy/validate", json={"text": text})).json()["advice"]
    assert [one["path"] for one in advice] == ["routes[1]"]
    assert (await put(writer, text)).json()["advice"] == advice


async def test_a_diff_shows_changed_limits_but_not_changed_notation(
    writer: httpx.AsyncClient,
) -> None:
    await put(writer, limits_json())
    await put(writer, limits_json(user_capacity=77))
    other = json.dumps(json.loads(limits_json(user_capacity=77)), indent=4)
    assert (await writer.post(f"{V1}/policy/diff", json={"text": other})).json() == {"same": True, "diff": ""}
    found = (await writer.post(f"{V1}/policy/diff", json={"text": other, "against": 1})).json()
    assert not found["same"]
    assert "77" in found["diff"]
    for number in ("1.0", "1e0"):
        body = f'{{"text": {json.dumps(other)}, "against": {number}}}'
        sent = await writer.post(
            f"{V1}/policy/diff", content=body, headers={"content-type": "application/json"}
        )
        assert sent.json() == found
    half = await writer.post(f"{V1}/policy/diff", json={"text": other, "against": 0.5})
    assert half.status_code == 422
    unknown = await writer.post(f"{V1}/policy/diff", json={"text": other, "against": 9})
    assert unknown.status_code == 404
    assert "revision 9" in unknown.json()["error"]


async def test_a_rollback_is_a_new_revision_with_the_old_text(writer: httpx.AsyncClient) -> None:
    first = await put(writer, limits_json())
    second = await put(writer, limits_json(user_capacity=77))
    body = {"to": 1, "author": "carol", "note": "too tight"}
    stale = await writer.post(f"{V1}/policy/rollback", json=body, headers={"if-match": first.headers["etag"]})
    assert stale.status_code == 412
    done = await writer.post(f"{V1}/policy/rollback", json=body, headers={"if-match": second.headers["etag"]})
    assert done.status_code == 200
    revision = done.json()["revision"]
    assert (revision["number"], revision["author"], revision["note"]) == (3, "carol", "too tight")
    assert done.headers["etag"] == f'"3-{digest_of(limits_json())}"'
    unknown = await writer.post(f"{V1}/policy/rollback", json={"to": 99}, headers=ANY)
    assert unknown.status_code == 404


async def test_a_foreign_write_is_shown_as_unrecorded_or_refused(
    store: Redis, reader: httpx.AsyncClient, writer: httpx.AsyncClient
) -> None:
    """A change may name the unrecorded policy, which becomes a revision before it."""
    await store.set(KEY, limits_json())
    found = await reader.get(f"{V1}/policy")
    assert (found.json()["revision"]["number"], found.json()["revision"]["author"]) == (1, "external")
    assert found.json()["recorded"] is False
    assert (await reader.get(f"{V1}/revisions/1")).json()["text"] == limits_json()
    assert await store.keys("*") == [KEY.encode()]
    await put(writer, limits_json(user_capacity=9), found.headers["etag"])
    listed = (await reader.get(f"{V1}/revisions")).json()["revisions"]
    assert [(one["number"], one["author"]) for one in listed] == [(2, "admin"), (1, "external")]
    await store.set(KEY, limits_json(user_rate=-1))
    for name in ("policy", "status"):
        found = (await reader.get(f"{V1}/{name}")).json()
        assert found["revision"]["number"] == 2
        assert [one["path"] for one in found["refused"]] == ["user_rate"]


async def test_the_status_shows_replicas_behind_and_shadow_counts(
    store: Redis, writer: httpx.AsyncClient
) -> None:
    await put(writer, limits_json())
    await run_replica(store, "old", 0)
    await run_replica(store, "new", 1)
    await Replicas(store, KEY).add_shadow(1, {"tiers.user": 3})
    status = (await writer.get(f"{V1}/status")).json()
    assert {one["id"]: one["behind"] for one in status["replicas"]} == {"old": True, "new": False}
    assert status["shadow"] == {"tiers.user": 3}


async def test_revision_is_an_alias_of_the_digest_of_a_replica(
    store: Redis, writer: httpx.AsyncClient
) -> None:
    at_us = (await store.time())[0] * MICRO
    await Replicas(store, KEY).publish(replica(digest=digest_of(DEFAULT_TEXT), seen_us=at_us))
    (shown,) = (await writer.get(f"{V1}/status")).json()["replicas"]
    assert shown["revision"] == shown["digest"] == digest_of(DEFAULT_TEXT)
    openapi = (await writer.get("/admin/api/openapi.json")).json()
    assert openapi["components"]["schemas"]["ReplicaStatus"]["properties"]["revision"]["deprecated"]


async def test_a_replica_with_an_impossible_start_time_is_shown(
    store: Redis, reader: httpx.AsyncClient
) -> None:
    """Its entry may be written by hand; the status must still work."""
    for started_us in (10**30, -(10**30)):
        await run_replica(store, str(started_us), 0, started_us=started_us)
    status = await reader.get(f"{V1}/status")
    assert status.status_code == 200
    assert {one["started_at"][:4] for one in status.json()["replicas"]} == {"1970", "2255"}


async def test_a_change_can_wait_until_every_replica_runs_it(store: Redis, writer: httpx.AsyncClient) -> None:
    await run_replica(store, "slow", 0)
    late = await put(writer, limits_json(), wait_s=0.2)
    assert late.status_code == 504
    assert late.json()["error"] == "after 0.2 s revision 1 does not run yet on slow"
    await run_replica(store, "slow", 9)
    assert (await put(writer, limits_json(), wait_s=5)).status_code == 200


async def test_a_rollback_can_wait_until_every_replica_runs_it(
    store: Redis, writer: httpx.AsyncClient
) -> None:
    await put(writer, limits_json())
    await run_replica(store, "slow", 1)
    body = {"to": 0, "wait_s": 0.2}
    late = await writer.post(f"{V1}/policy/rollback", json=body, headers=ANY)
    assert late.status_code == 504
    assert late.json()["error"] == "after 0.2 s revision 2 does not run yet on slow"
    await run_replica(store, "slow", 9)
    done = await writer.post(f"{V1}/policy/rollback", json=body, headers=ANY)
    assert (done.status_code, done.json().keys()) == (200, {"revision", "advice"})


async def test_the_schema_of_policies_is_a_json_schema(reader: httpx.AsyncClient) -> None:
    schema = (await reader.get(f"{V1}/policy/schema")).json()
    assert schema["$schema"].startswith("https://json-schema.org/")


async def test_an_explanation_has_tokens_and_seconds(store: Redis, writer: httpx.AsyncClient) -> None:
    await put(writer, FULL)
    seconds, _ = await store.time()
    await store.hset("rate:user:alice", mapping={"tokens": "1", "last": str((seconds + 60) * 1_000_000)})
    found = await explained(writer, path="/api/search?q=x", user="alice")
    assert (found["outcome"], found["denied_by"], found["route"], found["cost"]) == (
        "denied",
        "user",
        "routes[0]",
        3,
    )
    assert found["identity"] == {"kind": "header", "key": "alice"}
    user = next(tier for tier in found["tiers"] if tier["name"] == "user")
    assert (user["capacity"], user["refill_rate"], user["tokens"], user["enough"]) == (5, 1, 1, False)
    assert found["retry_after_s"] == user["retry_after_s"]
    assert user["retry_after_s"] - user["no_refill_for_s"] == pytest.approx(2, abs=1e-5)
    assert user["reset_after_s"] - user["no_refill_for_s"] == pytest.approx(4, abs=1e-5)
    assert await store.hget("rate:user:alice", "tokens") == b"1"


async def test_an_explanation_names_the_override_that_blocks_or_exempts(writer: httpx.AsyncClient) -> None:
    await put(writer, FULL)
    blocked = await explained(writer, path="/", user="mallory")
    assert (blocked["outcome"], blocked["override"]) == ("blocked", "overrides.users.mallory")
    exempt = await explained(writer, path="/", user="vip")
    assert (exempt["outcome"], exempt["more"], exempt["tiers"]) == ("exempt", None, [])
    address = await explained(writer, path="/", address="2001:db8::1", method="post")
    assert address["identity"]["kind"] == "address"


async def test_the_buckets_of_a_user_are_listed_and_reset(store: Redis, writer: httpx.AsyncClient) -> None:
    seconds, _ = await store.time()
    last = str((seconds + 60) * 1_000_000)
    for key in ("rate:user:al", "rate:user:al:api:*", "rate:user:alice"):
        await store.hset(key, mapping={"tokens": "2.5", "last": last})
    found = (await writer.get(f"{V1}/buckets", params={"user": "al"})).json()["buckets"]
    assert [(one["key"], one["tier"], one["api"], one["tokens"], one["capacity"]) for one in found] == [
        ("rate:user:al", "user", None, 2.5, 100),
        ("rate:user:al:api:*", "user_api", "*", 2.5, 20),
    ]
    assert all(58 < one["no_refill_for_s"] <= 60 and one["not_a_bucket"] is None for one in found)
    done = await writer.delete(f"{V1}/buckets", params={"user": "al"})
    assert done.json() == {"deleted": ["rate:user:al", "rate:user:al:api:*"]}
    assert await store.keys("rate:*") == [b"rate:user:alice"]


async def test_a_key_of_another_type_is_listed_explained_and_reset(
    store: Redis, writer: httpx.AsyncClient
) -> None:
    await store.rpush("rate:user:al", "x")
    await store.set("rate:global", "x")
    (found,) = (await writer.get(f"{V1}/buckets", params={"user": "al"})).json()["buckets"]
    assert (found["tokens"], found["last_at"], found["not_a_bucket"]) == (100, None, "list")
    tiers = (await explained(writer, path="/", user="al"))["tiers"]
    assert [(one["not_a_bucket"], one["tokens"] == one["capacity"]) for one in tiers] == [
        ("string", True),
        ("list", True),
        (None, True),
    ]
    done = await writer.delete(f"{V1}/buckets", params={"user": "al"})
    assert done.json() == {"deleted": ["rate:user:al"]}


@pytest.mark.parametrize(
    "query",
    ["", "?user=a&address=127.0.0.1", "?user=", "?user=a,b", "?address=x", "?usr=a", "?user=a&x=1"],
)
async def test_buckets_need_exactly_one_user_or_address(writer: httpx.AsyncClient, query: str) -> None:
    for method in ("GET", "DELETE"):
        answer = await writer.request(method, f"{V1}/buckets{query}")
        assert answer.status_code == 422
        assert answer.json()["error"]


async def test_a_check_calls_the_running_service(writer: httpx.AsyncClient, service: Service) -> None:
    body = {
        "path": "/api/ping",
        "method": "put",
        "user": "bob",
        "address": "192.0.2.1",
        "headers": {"X-A": "1"},
    }
    answer = await writer.post(f"{V1}/check", json=body | {"context": {"api": "p"}})
    assert answer.json() == {
        "outcome": "denied",
        "http_status": 429,
        "headers": {"retry-after": "1"},
        "body": "{}",
        "metadata": {"tier": "user"},
        "grpc_code": "OK",
    }
    request = Request("PUT", "/api/ping", "", {"x-a": "1", "x-user-id": "bob"}, "192.0.2.1", {"api": "p"})
    assert service.calls == [("127.0.0.1:50051", request, False)]


async def test_a_service_that_does_not_answer_is_502(writer: httpx.AsyncClient, service: Service) -> None:
    service.answer = CheckCallError("127.0.0.1:50051 does not answer: UNAVAILABLE")
    answer = await writer.post(f"{V1}/check", json={"path": "/"})
    assert answer.status_code == 502
    assert answer.json()["error"] == "127.0.0.1:50051 does not answer: UNAVAILABLE"


async def test_a_read_only_key_reads_everything_and_changes_nothing(
    reader: httpx.AsyncClient, control: Control, service: Service
) -> None:
    text = {"text": limits_json()}
    for path in ("policy", "policy/schema", "revisions", "revisions/0", "status", "buckets?user=a"):
        assert (await reader.get(f"{V1}/{path}")).status_code == 200
    questions = {"explain": {"path": "/"}, "check": {"path": "/", "dry_run": True}}
    for path, body in ({"policy/validate": text, "policy/diff": text} | questions).items():
        assert (await reader.post(f"{V1}/{path}", json=body)).status_code == 200
    assert [dry_run for _, _, dry_run in service.calls] == [True]
    for refused in (
        await reader.put(f"{V1}/policy", json=text, headers=ANY),
        await reader.post(f"{V1}/policy/rollback", json={"to": 0}, headers=ANY),
        await reader.delete(f"{V1}/buckets?user=a"),
        await reader.post(f"{V1}/check", json={"path": "/"}),
    ):
        assert refused.status_code == 403
        assert "this key is read-only" in refused.json()["error"]
    assert (await control.current()).revision.number == 0
    assert len(service.calls) == 1


async def test_the_examples_in_the_openapi_are_accepted(writer: httpx.AsyncClient) -> None:
    """schemathesis uses them to get past the validation that refuses its own texts."""
    openapi = (await writer.get("/admin/api/openapi.json")).json()
    (text,) = openapi["components"]["schemas"]["PolicyBody"]["properties"]["text"]["examples"]
    (match,) = openapi["paths"]["/v1/policy"]["put"]["parameters"]
    assert (await put(writer, text, match["example"])).status_code == 200


async def test_no_answer_contains_a_key(writer: httpx.AsyncClient) -> None:
    for answer in (await writer.get("/admin/api/openapi.json"), await writer.get(f"{V1}/nothing")):
        assert WRITE_KEY not in answer.text
        assert READ_KEY not in answer.text


async def test_a_store_outage_is_503(storeless: httpx.AsyncClient) -> None:
    """Operations that do not need the store still work."""
    for path in ("policy", "revisions", "status", "buckets?user=a", "usage"):
        answer = await storeless.get(f"{V1}/{path}")
        assert answer.status_code == 503
        assert answer.json()["error"].startswith("the store")
    assert (await put(storeless, limits_json())).status_code == 503
    assert (await storeless.post(f"{V1}/policy/validate", json={"text": "x"})).status_code == 200
