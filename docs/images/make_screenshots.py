"""Takes the screenshots of README.md and docs/. Run it with `make screenshots`.

It starts the stack of the demo with an example policy, writes the usage of the last 15 minutes to the store
as two replicas would have, sends requests through Envoy, and opens pages of the panel in /usr/bin/chromium.
The PNG files are beside this script.
"""

import asyncio
import json
import math
import random
import secrets
from collections import Counter
from pathlib import Path

import httpx
from playwright.async_api import FloatRect, Locator, Page, async_playwright
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.core.model import MICRO, Verdict
from ratelimitd.core.tiers import TierName
from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.settings import CONFIG_KEY, load
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from ratelimitd.store.script import Script
from ratelimitd.usage import layout
from ratelimitd.usage.addition import Additions
from ratelimitd.usage.sample import Sample

CHROMIUM = "/usr/bin/chromium"
FOLDER = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 1000, 700, 16
IN_FORCE_S = 20.0
SEED = 20

HISTORY_S = 900
STEP_S = 10
CHANGED_S = 400
"""Seconds ago when the second revision came into force."""

OUTAGE_S = range(700, 720)
"""Seconds ago when the store gave no answer."""

REPLICAS = ("replica-1", "replica-2")
APIS = (("/api/orders", 0.45), ("/api/search", 0.25), ("/api/users/*", 0.2), ("/api/*", 0.1))
"""The APIs, and their parts of all requests."""

CAPACITY = 500

FLAT = (
    '{"global_capacity": 500, "global_rate": 50, "user_capacity": 100, "user_rate": 5,'
    ' "user_api_capacity": 20, "user_api_rate": 2}'
)
FULL = """\
tiers:
  global: {capacity: 500, refill_rate: 50}
  user: {capacity: 100, rate: 300/min}
  user_api: {capacity: 20, rate: 30/min}
routes:
  - {path: /api/search, cost: 5}
  - {path: /api/new/**, shadow: true}
overrides:
  users:
    alice:
      user: {capacity: 1000, refill_rate: 100}
    mallory: {blocked: true}
"""
CHANGES = (
    (FLAT, "bob", "first limits"),
    (FULL, "alice", "search costs 5"),
)


async def main() -> None:
    """Starts everything, takes the screenshots, and stops everything."""
    key = secrets.token_hex(16)
    async with (
        embedded_store() as url,
        open_client(url) as store,
        running_stack(url, admin_key=key) as stack,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        await _prepare(Control(store, load({}, {})), stack)
        await _date_revisions(store)
        page = await chromium.new_page(
            base_url=f"http://{stack.panel}",
            viewport={"width": WIDTH, "height": HEIGHT},
            color_scheme="light",
            reduced_motion="reduce",
        )
        await _sign_in(page, key)
        await _write_usage(store)  # after what the replicas have reported, which it replaces in part
        await page.goto("/admin")
        await _take_top(page, "panel-usage.png", until=page.locator("figure.chart").nth(2))
        for name, path in (
            ("panel-limits.png", "/admin/limits"),
            ("panel-explain.png", "/admin/explain?user=bob&path=/api/search"),
        ):
            await page.goto(path)
            await page.screenshot(path=FOLDER / name, full_page=True)


async def _prepare(control: Control, stack: Stack) -> None:
    """Puts the policies in force, and spends some tokens."""
    for text, author, note in CHANGES:
        applied = await control.apply(text, author=author, note=note, expected=None)
        await control.wait(applied.revision.number, IN_FORCE_S)
    async with httpx.AsyncClient(base_url=f"http://{stack.front}", trust_env=False) as client:
        for _ in range(5):
            await client.get("/api/search", headers={"x-user-id": "bob"})


async def _date_revisions(store: Redis) -> None:
    """Moves the revisions into the past, so that the charts show one."""
    key = f"{{{CONFIG_KEY}}}:revisions"
    for number, ago_s in ((1, 86_400), (2, CHANGED_S)):
        revision = json.loads(await store.hget(key, str(number)) or "")
        revision["at_us"] -= ago_s * MICRO
        await store.hset(key, str(number), json.dumps(revision))


async def _write_usage(store: Redis) -> None:
    """Adds the samples of the replicas, as `ratelimitd/usage/report.py` does."""
    choose = random.Random(SEED)  # noqa: S311 - nothing secret
    script = Script(store, "lua/usage_add.lua")
    now_s, _ = await store.time()
    began_s = now_s - HISTORY_S
    replicas = [Additions(CONFIG_KEY, name) for name in REPLICAS]
    for at_s in range(began_s - began_s % STEP_S, now_s + 1, STEP_S):
        ago_s = now_s - at_s
        spent = 0.35 + 0.25 * math.sin(ago_s / 130) + choose.uniform(-0.03, 0.03)
        state = f"{1 if ago_s > CHANGED_S else 2} {round((1 - spent) * CAPACITY) * MICRO} {CAPACITY}"
        for additions in replicas:
            sample = _sample(choose, ago_s, load_=spent)
            for addition in additions.of([(at_s, sample)], state, now_s):
                await script(*addition)


def _sample(choose: random.Random, ago_s: int, *, load_: float) -> Sample:
    """Makes up the counts of ten seconds: denials rise with the change, and there is a short outage."""
    sample = Sample(at_s=0)
    allowed = round(STEP_S * 40 * load_ * choose.uniform(0.9, 1.1))
    denied = Counter(
        {
            TierName.USER: round(allowed * choose.uniform(0.04, 0.08)),
            TierName.USER_API: round(
                allowed * (0.25 if ago_s < CHANGED_S else 0.08) * choose.uniform(0.8, 1.2)
            ),
            TierName.GLOBAL: round(allowed * max(0.0, load_ - 0.5)),
        }
    )
    sample.counts[layout.CODES[Verdict.ALLOWED, ""]] = allowed
    sample.counts[layout.CODES[Verdict.EXEMPT, ""]] = 20
    sample.counts[layout.CODES[Verdict.UNDECIDED, ""]] = 12 if ago_s in OUTAGE_S else 0
    for tier, count in denied.items():
        sample.counts[layout.CODES[Verdict.DENIED, tier]] = count
    sample.counts[layout.LOCAL] = denied.total() // 2
    for bucket, part in zip(layout.STORE_SECONDS[2:8], (0.2, 0.5, 0.2, 0.07, 0.02, 0.01), strict=True):
        sample.counts[bucket] = round(allowed * part * choose.uniform(0.7, 1.3))
    for api, part in APIS:
        sample.apis[api, layout.API_ALLOWED] = round(allowed * part)
        sample.apis[api, layout.API_DENIED] = round(denied.total() * part)
    return sample


async def _take_top(page: Page, name: str, *, until: Locator) -> None:
    """Takes the page from its top to the bottom of an element."""
    box = await until.bounding_box()
    if box is None:
        raise RuntimeError(f"{until} is not visible")
    clip = FloatRect(x=0, y=0, width=WIDTH, height=box["y"] + box["height"] + MARGIN)
    await page.screenshot(path=FOLDER / name, full_page=True, clip=clip)


async def _sign_in(page: Page, key: str) -> None:
    await page.goto("/admin")
    await page.get_by_label("Your name").fill("alice")
    await page.get_by_label("Key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Usage").wait_for()


if __name__ == "__main__":
    asyncio.run(main())
