"""Take the screenshots of the panel. Run it with .venv/bin/python docs/images/make_screenshots.py.

It starts the stack of the demo with an example policy, sends requests through Envoy, and opens pages of the
panel in /usr/bin/chromium. It writes PNG files beside this script.
"""

import asyncio
import secrets
from pathlib import Path

import httpx
from playwright.async_api import Page, async_playwright

from ratelimitd.control.control import Control
from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store

CHROMIUM = "/usr/bin/chromium"
FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 1000, 700
IN_FORCE_S = 20.0

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
    """Start everything, take the screenshots, and stop everything."""
    key = secrets.token_hex(16)
    async with (
        embedded_store() as url,
        open_client(url) as store,
        running_stack(url, admin_key=key) as stack,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        await _prepare(Control(store, load({}, {})), stack)
        page = await chromium.new_page(
            base_url=f"http://{stack.panel}", viewport={"width": WIDTH, "height": HEIGHT}
        )
        await _sign_in(page, key)
        await page.goto("/admin/limits")
        await _take(page, "panel-limits.png")
        await page.goto("/admin/explain?user=bob&path=/api/search")
        await _take(page, "panel-explain.png")


async def _prepare(control: Control, stack: Stack) -> None:
    """Put the policies in force, and spend some tokens."""
    for text, author, note in CHANGES:
        applied = await control.apply(text, author=author, note=note, expected=None)
        await control.wait(applied.revision.number, IN_FORCE_S)
    async with httpx.AsyncClient(base_url=f"http://{stack.front}", trust_env=False) as client:
        for _ in range(5):
            await client.get("/api/search", headers={"x-user-id": "bob"})


async def _sign_in(page: Page, key: str) -> None:
    await page.goto("/admin")
    await page.get_by_label("Your name").fill("alice")
    await page.get_by_label("Key").fill(key)
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("heading", name="Usage").wait_for()


async def _take(page: Page, name: str) -> None:
    await page.screenshot(path=FOLDER / name, full_page=True)


if __name__ == "__main__":
    asyncio.run(main())
