"""A script in Chromium calls the API from a page of another origin."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from ratelimitd.demo.stack import running_stack
from ratelimitd.store.client import open_client
from tests.browser.conftest import CHROMIUM, PATIENT
from tests.example_limits import NO_REFILL
from tests.required_programs import unavailable
from tests.system.changed_front import changed_front, running_backend
from tests.system.conftest import Front, client_of
from tests.system.cors_recipe import allow_scripts_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser")]

PAGE = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 22\r\n\r\n<!doctype html><p>Page"
FETCH = """
async ([url, credentials, user]) => {
  try {
    const reply = await fetch(url, {credentials, headers: {"x-user-id": user}});
    const field = name => reply.headers.get(name);
    const fields = ["retry-after", "ratelimit", "x-ratelimit-tier"].map(field);
    return [reply.status, await reply.text(), ...fields];
  } catch (error) {
    return [error.name];
  }
}
"""


@dataclass(frozen=True)
class Api:
    """The API, a page of the allowed origin, and the same page under the name of another origin."""

    front: Front
    url: str
    page: Page
    allowed: str
    other: str

    async def fetch(self, origin: str, user: str, credentials: str = "omit") -> list[Any]:
        """Returns what a script of this origin can read of the response."""
        await self.page.goto(origin)
        read: list[Any] = await self.page.evaluate(FETCH, [self.url, credentials, user])
        return read


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    if not Path(CHROMIUM).exists():
        unavailable(f"{CHROMIUM} is not installed")
    folder = tmp_path_factory.mktemp("envoy")
    async with (
        running_stack(store_url, replicas=1, flags=PATIENT) as stack,
        open_client(store_url) as store,
        client_of(stack) as http,
        running_backend() as pages,
        running_backend() as backend,
        changed_front(
            folder,
            allow_scripts_of(f"http://{pages.address}"),
            replicas=stack.replicas,
            backend=backend.address,
        ) as changed,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
        await chromium.new_page() as page,
    ):
        pages.response = PAGE
        front = Front(stack, store, http)
        await front.set_limits(**NO_REFILL)
        origin = f"http://{pages.address}"
        yield Api(
            front,
            str(changed.base_url.join("/api/ping")),
            page,
            origin,
            origin.replace("127.0.0.1", "localhost"),
        )


@pytest.mark.parametrize("credentials", ["omit", "include"])
async def test_a_script_reads_a_denial_and_preflights_take_no_token(api: Api, credentials: str) -> None:
    await api.front.fill()
    user = f"user-{credentials}"
    replies = [await api.fetch(api.allowed, user, credentials) for _ in range(4)]
    assert [reply[:2] for reply in replies[:3]] == [[200, "ok"]] * 3
    status, body, retry_after, rate_limit, tier = replies[3]
    assert (status, body) == (429, '{"error":"rate limit exceeded"}')
    assert (int(retry_after) > 0, tier) == (True, "user_api")
    assert rate_limit.startswith('"global";r=7;')
    taken = await api.front.buckets()
    assert taken.keys() == {"global", f"user:{user}", f"user:{user}:api:/api/*"}


async def test_a_script_of_another_origin_reads_nothing(api: Api) -> None:
    assert await api.fetch(api.other, "stranger") == ["TypeError"]
