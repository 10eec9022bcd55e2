"""The page Usage in Chromium: it refreshes itself, and is readable in every size, colour and state."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio
import uvicorn
from playwright.async_api import Browser, Page, StorageState, async_playwright, expect
from redis.asyncio import Redis

from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import admin_app
from ratelimitd.control.usage_answers import ApiUsage, DecisionTotals, RevisionMark, Usage
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.process.loopback import LOOPBACK
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.transport.client import check_service
from ratelimitd.usage.ranges import UsageRange
from tests.admin.panel.made_usage import (
    ControlOfUsage,
    lively,
    many_apis,
    start_us,
    steps_of,
    usage_of,
)
from tests.browser.conftest import CHROMIUM, PATIENCE_MS, WRITE_KEY, Visit
from tests.browser.page_checks import FAINT, FAINT_LINES, MISPLACED, OUT_OF_SIGHT, tab_to
from tests.eventually import eventually
from tests.required_programs import unavailable

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser")]
expect.set_options(timeout=PATIENCE_MS)

MINUTES = UsageRange.QUARTER_HOUR
EVERY_MS = 5000
WIDTHS = (360, 800, 1400)
EVIL = "</script><svg onload=alert(1)>\u202edlrow" + "x" * 10_000
"""A name that breaks a page which does not escape it."""


def hostile(over: UsageRange) -> Usage:
    """Returns usage with names that attack the page, and a change of the policy in every step."""
    revisions = [
        RevisionMark(number=at, at_us=start_us(over, at), author=EVIL, note=EVIL) for at in range(1, 90)
    ]
    apis = [ApiUsage(api=EVIL, allowed=3, denied=2, per_step=[1, 4]), *many_apis(200)]
    return lively(over).model_copy(update={"apis": apis, "revisions": revisions})


def spike(over: UsageRange) -> Usage:
    """Returns usage of a large bucket with one step that is far above all others."""
    denied = dict.fromkeys(TierName, 0) | {TierName.USER: 3}
    tokens = {"global_tokens": 10**9 * MICRO, "global_capacity": 10**9}
    values = {7: {"allowed": 10**9, "store_p99_s": 1.0}}
    steps = steps_of(
        over, values, replicas=12, allowed=1, denied=3, denied_by=denied, store_p99_s=0.0001, **tokens
    )
    return usage_of(over, steps)


STATES = (
    lively(MINUTES),
    lively(UsageRange.HOUR),
    lively(UsageRange.DAY),
    lively(UsageRange.WEEK),
    hostile(MINUTES),
    spike(UsageRange.WEEK),
    usage_of(MINUTES, steps_of(MINUTES)),
    usage_of(MINUTES, steps_of(MINUTES, replicas=1)),
)


class AskedControl(ControlOfUsage):
    """A control of made-up usage, whose store is away while `away` is set."""

    away = False

    async def usage(self, over: UsageRange) -> Usage:
        """Returns `made`, or raises StoreError."""
        found = await super().usage(over)
        if self.away:
            raise StoreError("the store does not answer")
        return found


@dataclass(frozen=True)
class Panel:
    """An admin service with made-up usage, and a browser."""

    control: AskedControl
    url: str
    chromium: Browser
    session: StorageState

    async def asked(self, times: int) -> None:
        """Waits until the usage was read this often."""

        async def reached() -> bool:
            return len(self.control.asked) >= times

        await eventually(reached, f"the usage is read {times} times")


@asynccontextmanager
async def serving(store: Redis) -> AsyncIterator[tuple[AskedControl, str]]:
    """Serves the panel from this process."""
    control = AskedControl(store)
    app = admin_app(control, AdminKeys((WRITE_KEY,), ()), load({}, {}), check_service, refusal_delay_s=0)
    server = uvicorn.Server(uvicorn.Config(app, host=LOOPBACK, port=0, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())

    async def started() -> bool:
        return server.started

    await eventually(started, "the admin service listens")
    host, port = server.servers[0].sockets[0].getsockname()
    yield control, f"http://{host}:{port}"
    server.should_exit = True
    await task


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def panel_of_module(store_url: str) -> AsyncIterator[Panel]:
    """An admin service and a browser."""
    if not Path(CHROMIUM).exists():
        unavailable(f"{CHROMIUM} is not installed")
    async with (
        open_client(store_url) as store,
        async_playwright() as playwright,
        await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]) as chromium,
    ):
        await store.flushall()
        async with serving(store) as (control, url):
            context = await chromium.new_context(base_url=url)
            await Visit(context).signed_in()
            session = await context.storage_state()
            await context.close()
            yield Panel(control, url, chromium, session)


@pytest_asyncio.fixture(loop_scope="module")
async def panel(panel_of_module: Panel) -> Panel:
    """The panel, with lively usage that was not read yet."""
    panel_of_module.control.made, panel_of_module.control.away = None, False
    panel_of_module.control.asked.clear()
    return panel_of_module


@pytest_asyncio.fixture(loop_scope="module")
async def visit(panel: Panel) -> AsyncIterator[Visit]:
    """The browser of one person, with a clock that stands still. It must report no errors or warnings."""
    context = await panel.chromium.new_context(base_url=panel.url, storage_state=panel.session)
    context.set_default_timeout(PATIENCE_MS)
    await context.clock.install(time=0)
    await context.clock.pause_at(1000)
    visit = Visit(context)
    yield visit
    await context.close()
    assert visit.complaints == []


async def opened(visit: Visit, panel: Panel, path: str = "/admin") -> Page:
    """Opens the page, which refreshes itself only when its clock is moved."""
    page = await visit.page()
    await page.goto(path)
    await expect(page.get_by_role("button", name="Pause updates")).to_be_visible()
    panel.control.asked.clear()
    return page


def allowed(total: int) -> Usage:
    """Returns lively usage with another total."""
    return lively(MINUTES).model_copy(update={"totals": DecisionTotals(allowed=total)})


async def test_the_page_refreshes_and_stays_as_it_is(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    chart = page.get_by_role("img", name="Duration of store calls")
    await expect(chart).to_have_accessible_description(DURATIONS)
    await expect(page.get_by_role("img")).to_have_count(5)
    await page.set_viewport_size({"width": 360, "height": 500})
    data = page.locator("details").nth(3)
    await data.locator("summary").click()
    await data.locator(".scroll").evaluate("box => { box.scrollTop = 60; }")
    assert await page.evaluate("scrollY") > 500
    place = await data.bounding_box()
    panel.control.made = allowed(4321)
    await page.clock.run_for(EVERY_MS - 1)
    assert panel.control.asked == []
    await page.clock.run_for(1)
    await expect(page.locator("#tile-1")).to_contain_text("4,321 in total")
    assert panel.control.asked == [MINUTES]
    assert await data.bounding_box() == place
    assert await data.locator(".scroll").evaluate("box => box.scrollTop") == 60
    await expect(data).to_have_attribute("open", "")
    await expect(data.locator("summary")).to_be_focused()
    panel.control.made = allowed(4322)
    await page.clock.run_for(EVERY_MS)
    await expect(page.locator("#tile-1")).to_contain_text("4,322 in total")


DURATIONS = re.compile(r"^p50: latest 481 µs, highest \d+ µs\. p99: latest 2\.28 ms, highest [\d.]+ ms\.$")


async def test_a_hidden_page_rests_and_catches_up_at_once(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    await page.evaluate(BE_HIDDEN, "hidden")
    await page.clock.run_for(10 * EVERY_MS)
    assert panel.control.asked == []
    await page.evaluate(BE_HIDDEN, "visible")
    await panel.asked(1)
    await expect(page.locator("#as-of")).to_be_visible()


BE_HIDDEN = """state => {
  Object.defineProperty(document, "hidden", { value: state === "hidden", configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_the_keyboard_pauses_and_resumes(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    await page.get_by_role("link", name="Skip to content").focus()
    await tab_to(page, page.get_by_role("link", name="7 d"))
    await tab_to(page, page.get_by_role("button", name="Pause updates"))
    await page.keyboard.press("Space")
    await expect(page.get_by_role("button", name="Resume updates")).to_be_focused()
    await page.clock.run_for(3 * EVERY_MS)
    assert panel.control.asked == []
    await page.keyboard.press("Enter")
    await panel.asked(1)
    await expect(page.get_by_role("button", name="Pause updates")).to_be_focused()
    await tab_to(page, page.locator("#tiers-title ~ *, summary").first)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("region", name="Data of Decisions per second")).to_be_visible()


async def test_an_outage_is_reported_until_it_is_over(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    before = await page.locator("#as-of").inner_text()
    panel.control.away = True
    await page.clock.run_for(EVERY_MS)
    trouble = page.get_by_role("status").last
    await expect(trouble).to_have_text("The store does not answer. Trying again every 5 seconds.")
    await page.route("**/admin/usage*", lambda route: route.abort())
    await page.clock.run_for(EVERY_MS)
    await expect(trouble).to_have_text("The admin service does not answer. Trying again every 5 seconds.")
    assert await page.locator("#as-of").inner_text() == before
    await page.unroute("**/admin/usage*")
    panel.control.away, panel.control.made = False, allowed(7)
    await page.clock.run_for(EVERY_MS)
    await expect(page.locator("#tile-1")).to_contain_text("7 in total")
    await expect(trouble).to_have_text("")
    lost = [one for one in visit.complaints if "503" in one or "ERR_FAILED" in one]
    assert lost == visit.complaints
    visit.complaints.clear()


async def test_the_end_of_the_session_stops_the_page(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel, "/admin?range=1h")
    await visit.context.clear_cookies()
    await page.clock.run_for(EVERY_MS)
    await expect(page.get_by_text("Your session has ended.")).to_be_visible()
    requests = list[str]()
    page.on("request", lambda request: requests.append(request.url))
    await expect(page.get_by_role("button", name="Pause updates")).to_have_count(0)
    await page.clock.run_for(5 * EVERY_MS)
    assert requests == []
    await page.get_by_role("link", name="Sign in").click()
    await page.get_by_label("Key").fill(WRITE_KEY)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url("**/admin?range=1h")


async def test_without_scripts_there_is_a_link_and_a_table(panel: Panel) -> None:
    context = await panel.chromium.new_context(
        base_url=panel.url, storage_state=panel.session, java_script_enabled=False
    )
    context.set_default_timeout(PATIENCE_MS)
    page = await Visit(context).page()
    await page.goto("/admin")
    await expect(page.get_by_role("button", name="Pause updates")).to_have_count(0)
    panel.control.made = allowed(99)
    await page.get_by_role("link", name="Reload").click()
    await expect(page.locator("#tile-1")).to_contain_text("99 in total")
    await page.get_by_text("Data", exact=False).first.click()
    await expect(page.get_by_role("region", name="Data of Decisions per second")).to_be_visible()
    await context.close()


async def test_every_state_fits_every_width(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
    for state in STATES:
        panel.control.made = state
        await page.goto(f"/admin?range={state.range}")
        await page.evaluate(OPEN_ALL)
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, state.range
            assert await page.evaluate(OUT_OF_SIGHT) == []
            assert await page.evaluate(MISPLACED) == []


OPEN_ALL = "document.querySelectorAll('details').forEach(one => { one.open = true; })"


async def test_charts_have_enough_contrast(visit: Visit, panel: Panel) -> None:
    panel.control.made = usage_of(
        MINUTES, steps_of(MINUTES, replicas=1, allowed=5, exempt=1, blocked=1, undecided=1), apis=many_apis(2)
    )
    page = await opened(visit, panel)
    await page.evaluate(OPEN_ALL)
    grounds = set()
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate(FAINT) == []
        assert await page.evaluate(FAINT_LINES) == []
        grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == len(SCHEMES)


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


async def test_hostile_names_run_nothing_after_a_refresh(visit: Visit, panel: Panel) -> None:
    page = await opened(visit, panel)
    page.on("dialog", lambda dialog: visit.complaints.append(dialog.message))
    panel.control.made = hostile(MINUTES)
    await page.clock.run_for(EVERY_MS)
    await expect(page.locator("#apis bdi").first).to_contain_text("\\u202edlrow")
    assert await page.locator("svg[onload]").count() == 0
    assert len(await page.locator("#apis bdi").first.inner_text()) < 100
