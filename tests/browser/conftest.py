"""A browser, an admin service, and the system that it manages, shared by the tests of a module."""

import os
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Response, async_playwright
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.demo.stack import running_stack
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import PREFIX, env_name, load
from ratelimitd.store.client import open_client
from tests.example_limits import NO_REFILL, limits_json
from tests.required_programs import unavailable
from tests.system.conftest import client_of

ADMIN = [sys.executable, "-P", "-m", "ratelimitd", "admin"]
CHROMIUM = "/usr/bin/chromium"
WRITE_KEY = "write-key-of-a-test"
NAME = "carol"
IN_FORCE_S = 20.0
PATIENCE_MS = 20_000
PATIENT = ("--transport", "grpcio", "--store-timeout-ms", "2000")
"""Flags of the replicas: a browser beside them keeps a small machine busy."""

EXPECTED_STATUSES = {401, 409, 422}
"""Statuses of pages that a person may see. Chromium reports each on its console as a failed resource."""

_FAILED = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


@dataclass(frozen=True)
class System:
    """A client of the front Envoy, the store of the replicas, the URL of the panel, and a browser."""

    http: httpx.AsyncClient
    store: Redis
    control: Control
    panel: str
    chromium: Browser

    async def get(self, user: str, times: int = 1) -> list[httpx.Response]:
        """Sends requests of a user through Envoy, one after the other."""
        return [await self.http.get("/api/ping", headers={"X-User-Id": user}) for _ in range(times)]

    async def set_policy(self, text: str) -> int:
        """Puts a policy in force on every replica, fills every bucket, and returns the revision number."""
        applied = await self.control.apply(text, author="a test", note="", expected=None)
        await self.control.wait(applied.revision.number, IN_FORCE_S)
        for key in await self.store.keys("rate:*"):
            await self.store.delete(key)
        return applied.revision.number


@dataclass  # not frozen: playwright marks the object whose methods it calls
class Visit:
    """The browser of one person, with the errors and warnings that it reported."""

    context: BrowserContext
    complaints: list[str] = field(default_factory=list)

    async def page(self) -> Page:
        """Opens a tab, whose errors are recorded."""
        page = await self.context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("response", self._on_response)
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        found = _FAILED.match(message.text)
        if message.type in {"error", "warning"} and not (found and int(found[1]) in EXPECTED_STATUSES):
            self.complaints.append(f"{message.location}: {message.text}")

    def _on_response(self, response: Response) -> None:
        if "content-security-policy" not in response.headers:
            self.complaints.append(f"{response.url} has no Content-Security-Policy")

    async def signed_in(self) -> Page:
        """Opens a tab and signs in with a key that allows changes."""
        page = await self.page()
        await page.goto("/admin")
        await page.get_by_label("Your name").fill(NAME)
        await page.get_by_label("Key").fill(WRITE_KEY)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("heading", name="Usage").wait_for()
        return page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system_of_module(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Two replicas behind Envoy, an admin service, and a browser."""
    if not Path(CHROMIUM).exists():
        unavailable(f"{CHROMIUM} is not installed")
    port = free_port()
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    env |= {
        env_name("redis_url"): store_url,
        env_name("admin_key"): WRITE_KEY,
        env_name("admin_listen"): f"{LOOPBACK}:{port}",
    }
    panel = f"http://{LOOPBACK}:{port}"
    log = tmp_path_factory.mktemp("admin") / "admin.log"
    async with open_client(store_url) as store:
        await store.flushall()  # a replica of another test would count as silent
    async with (
        running_stack(store_url, replicas=2, flags=PATIENT) as stack,
        open_client(store_url) as store,
        client_of(stack) as http,
        child("admin", ADMIN, log, env) as admin,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):

        async def ready() -> bool:
            try:
                return (await http.get(f"{panel}/readyz")).status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        await admin.until(ready)
        yield System(http, store, Control(store, load({}, {})), panel, chromium)


@pytest_asyncio.fixture(loop_scope="module")
async def system(system_of_module: System) -> System:
    """The system with small limits that do not refill, in force on every replica, and full buckets."""
    await system_of_module.set_policy(limits_json(**NO_REFILL))
    return system_of_module


@pytest_asyncio.fixture(loop_scope="module")
async def visit(system: System) -> AsyncIterator[Visit]:
    """The browser of one person. It must report no errors or warnings."""
    context = await system.chromium.new_context(base_url=system.panel)
    context.set_default_timeout(PATIENCE_MS)
    visit = Visit(context)
    yield visit
    await context.close()
    assert visit.complaints == []
