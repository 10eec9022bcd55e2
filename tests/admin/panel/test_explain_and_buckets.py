"""Explaining requests, looking up buckets, resetting them."""

import re

import pytest
from redis.asyncio import Redis

from tests.admin.panel.browser import Browser


async def test_explaining_an_allowed_request_takes_no_tokens(browser: Browser, store: Redis) -> None:
    query = {"path": "/api/orders?x=1", "method": "post", "user": "alice", "headers": "a: 1\r\n\r\nb: 2"}
    page = await browser.get("/admin/explain", params=query)
    assert "Because every tier can pay 5." in page.text
    assert "100 such requests at once" in page.text
    assert "overrides.users.alice" in page.text
    assert "1000, refill 100/s" in page.text
    assert await store.keys("rate:*") == []


async def test_a_denied_request_is_explained_with_its_wait(browser: Browser, store: Redis) -> None:
    seconds, micros = await store.time()
    await store.hset(
        "rate:global", mapping={"tokens": "0", "last": str(seconds * 1_000_000 + micros + 10**9)}
    )
    page = await browser.get("/admin/explain", params={"path": "/api/orders", "address": "203.0.113.9"})
    assert '<span class="badge bad">denied</span>' in page.text
    assert "Because global holds 0.000 tokens" in page.text
    assert re.search(r"It would be allowed in 16 min 4\d s", page.text)
    assert re.search(r"rate:global gets no refill for 16 min 4\d s, because its last is in the", page.text)


async def test_a_cost_above_a_capacity_is_explained_without_a_wait(browser: Browser, store: Redis) -> None:
    policy = "tiers: {global: {capacity: 9, rate: 1/s}, user: off, user_api: {capacity: 9, rate: 1/s}}"
    routes = "routes: [{path: /a, cost: 3}]\noverrides: {users: {bob: {user_api: {capacity: 2, rate: 1/s}}}}"
    await store.set("rate_limit:config", f"{policy}\n{routes}")
    page = await browser.get("/admin/explain", params={"path": "/a", "user": "bob"})
    assert "Because user_api has a capacity of 2 and the request costs 3." in page.text
    assert "It is always denied." in page.text
    assert '<span class="badge bad">never</span>' in page.text


async def test_a_key_of_another_type_is_explained_and_reset(browser: Browser, store: Redis) -> None:
    await store.set("rate:user:alice", "x")
    await store.hset("rate:user:alice:api:/api/orders", mapping={"a": "b"})
    await store.sadd("rate:global", "x")
    page = await browser.get("/admin/explain", params={"path": "/api/orders", "user": "alice"})
    assert "Because every tier can pay 5." in page.text
    assert "rate:global holds a value that is not a bucket (type set)" in page.text
    listed = await browser.get("/admin/buckets?user=alice")
    assert "rate:user:alice:api:/api/orders holds a value that is not a bucket (type hash)" in listed.text
    question = await browser.get("/admin/buckets/reset?user=alice&address=")
    assert "Reset 2 buckets" in question.text
    await browser.submit("/admin/buckets/reset", question, user="alice", address="")
    assert await store.keys("rate:*") == [b"rate:global"]


@pytest.mark.parametrize(
    "query",
    ["path=api", "path=/&headers=nothing", "path=/&context=a", "path=/&address=here", "path=/&headers=:+1"],
)
async def test_an_invalid_request_is_reported_above_the_form(browser: Browser, query: str) -> None:
    page = await browser.get(f"/admin/explain?{query}")
    assert page.status_code == 422
    assert re.search(
        r'<form[^>]*aria-describedby="error">\s*<p class="error" id="error" role="alert">', page.text
    )


async def test_a_user_is_looked_up_and_reset(browser: Browser, store: Redis) -> None:
    seconds, micros = await store.time()
    for key in ("rate:user:alice", "rate:user:alice:api:/api/orders", "rate:user:bob"):
        await store.hset(key, mapping={"tokens": "7.5", "last": str(seconds * 1_000_000 + micros + 10**9)})
    page = await browser.get("/admin/buckets?user=alice")
    assert page.text.count("7.5") == 2
    question = await browser.get("/admin/buckets/reset?user=alice&address=")
    assert "Reset 2 buckets" in question.text
    after = await browser.submit("/admin/buckets/reset", question, user="alice", address="")
    assert "Filled 2 buckets of alice." in after.text
    assert await store.keys("rate:*") == [b"rate:user:bob"]
    assert "All buckets are full" in (await browser.get("/admin/buckets?user=alice")).text
    nothing = await browser.get("/admin/buckets/reset?user=alice")
    assert "there is nothing to reset" in nothing.text
    assert 'action="/admin/buckets/reset"' not in nothing.text


@pytest.mark.parametrize("query", ["user=a&address=203.0.113.9", "user=a,b", "address=here"])
async def test_an_invalid_user_or_address_is_422(browser: Browser, query: str) -> None:
    page = await browser.get(f"/admin/buckets?{query}")
    assert (page.status_code, 'id="error"' in page.text) == (422, True)
    assert (await browser.get(f"/admin/buckets/reset?{query}")).status_code == 422
