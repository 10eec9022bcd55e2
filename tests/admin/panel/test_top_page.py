"""The page Top users: its rows, where they lead, and hostile names."""

import re
from html import unescape

import pytest
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.core.identity import plain_key
from ratelimitd.core.model import Verdict
from ratelimitd.rollout.replicas import Replicas
from tests.admin.panel.browser import READ, Browser, ParsedPage, browsing
from tests.example_limits import KEY
from tests.replicas import replica
from tests.usage.test_top_publisher import Replica

HOSTILE = [
    *(
        "ada@example.com",
        "a b&c=d",
        "Zoë\u202egnirts",
        "</script><b>",
        "\x1b[31m",
        '"onload="x',
        "long-" * 40,
    ),
]


async def published(store: Redis, *keys: str, mode: str = "on", verdict: Verdict = Verdict.ALLOWED) -> None:
    one = Replica(store, "r1", "hashed" if mode == "hashed" else "on")
    one.decide(*keys, verdict=verdict)
    await one.publisher.publish()
    seconds, micros = await store.time()
    entry = replica("r1", seen_us=seconds * 1_000_000 + micros)
    await Replicas(store, KEY).publish(entry.model_copy(update={"top_users": mode}))


def links(text: str, path: str) -> list[str]:
    page = ParsedPage()
    page.feed(text)
    return [link for link in page.all("href") if link.startswith(path)]


@pytest.mark.parametrize(
    "key", [*map(plain_key, HOSTILE), "ip=203.0.113.9", "ip=2001%3Adb8%3A%3A%2F64", "=anonymous"]
)
async def test_each_row_leads_to_explain_buckets_and_reset(browser: Browser, store: Redis, key: str) -> None:
    await published(store, key)
    bucket = f"rate:user:{key}"
    await store.hset(bucket, mapping={"tokens": "1", "last": "0"})
    page = (await browser.get("/admin/top")).text
    (explain,) = links(page, "/admin/explain?")
    assert f">{key}</code>" in (await browser.get(explain)).text
    (buckets,) = links(page, "/admin/buckets?")
    assert f"<code>{bucket}</code>" in (await browser.get(buckets)).text
    (reset,) = links(page, "/admin/buckets/reset?")
    done = await browser.submit("/admin/buckets/reset", await browser.get(reset), key=key)
    assert "Filled 1 bucket" in done.text
    assert not await store.exists(bucket)


async def test_hostile_names_are_escaped(browser: Browser, store: Redis) -> None:
    await published(store, *map(plain_key, HOSTILE[2:5]))
    text = (await browser.get("/admin/top")).text
    for part in ("\u202e", "\x1b", "</script><b>"):
        assert part not in text
    assert "</script><b>" in unescape(text)


async def test_only_denied_requests_count_on_the_other_tab(browser: Browser, store: Redis) -> None:
    await published(store, "alice", verdict=Verdict.DENIED)
    assert "1 denied request on all replicas" in (await browser.get("/admin/top?show=denied")).text
    await published(store, "alice")
    text = (await browser.get("/admin/top?show=denied")).text
    assert re.search(r"No denied requests in this time", text)
    assert '<a href="/admin/top?show=denied" aria-current="true">' in text


async def test_a_visitor_with_a_read_key_sees_no_reset(control: Control, store: Redis) -> None:
    await published(store, "alice")
    async with browsing(control) as reader:
        await reader.sign_in(READ)
        text = (await reader.get("/admin/top")).text
    assert "alice" in text
    assert links(text, "/admin/buckets/reset") == []


async def test_hashed_rows_lead_nowhere_and_say_why(browser: Browser, store: Redis) -> None:
    await published(store, "alice", mode="hashed")
    text = (await browser.get("/admin/top")).text
    assert "hashed=" in text
    assert "publish hashes in place of names" in text
    assert links(text, "/admin/explain?") == []


async def test_off_is_explained(browser: Browser, store: Redis) -> None:
    await published(store, mode="off")
    assert "The replicas count no users" in (await browser.get("/admin/top")).text


async def test_the_script_gets_the_same_parts_as_the_page(browser: Browser, store: Redis) -> None:
    await published(store, "alice")
    part = re.compile(r'<div id="users" data-part>.*</div>', re.DOTALL)
    page, parts = [(await browser.get(path)).text for path in ("/admin/top", "/admin/top/parts?show=all")]
    shown = part.search(parts)
    assert shown is not None
    assert shown[0].strip() in page
    assert "<html" not in parts
