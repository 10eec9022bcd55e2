"""The panel in Chromium: it works with mouse, keyboard and phone, and its text is readable."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from ratelimitd.usage.ranges import UsageRange
from tests.browser.conftest import NAME, PATIENCE_MS, WRITE_KEY, System, Visit
from tests.browser.page_checks import FAINT, OUT_OF_SIGHT, tab_to
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("browser")]
expect.set_options(timeout=PATIENCE_MS)

PHONE = {"width": 360, "height": 740}

FULL = """\
# a policy with everything in it, and a line so long that it has to scroll: 0123456789 0123456789 0123456789
tiers:
  global: {capacity: 500, refill_rate: 50}
  user: {capacity: 1, rate: 1/min, shadow: true}
  user_api: {capacity: 20, refill_rate: 2}
routes:
  - {path: /api/a/very/long/path/that/does/not/fit/on/a/phone/**, api: a-very-long-name-of-a-bucket, cost: 5}
  - {path: /api/**, shadow: true}
  - {path: /api/never, shadow: true}
overrides:
  users: {mallory: {blocked: true}}
"""
LONG = "a-very-long-user-id-that-does-not-fit-on-one-line-of-a-phone"
PAGES = (
    "/admin",
    "/admin?range=7d",
    "/admin/top",
    "/admin/limits",
    "/admin/edit",
    "/admin/history",
    "/admin/history/{number}",
    "/admin/history/{before}/rollback",
    "/admin/replicas",
    f"/admin/explain?path=/api/x&method=GET&user={LONG}&headers=x-plan:+gold",
    "/admin/explain?path=x",
    f"/admin/buckets?user={LONG}",
    f"/admin/buckets/reset?user={LONG}",
)


async def applied(page: Page) -> None:
    """Presses Apply and waits for the confirmation."""
    await page.get_by_role("button", name="Apply").click()
    await expect(page.get_by_text("is in force on 2 replicas")).to_be_visible()


async def test_the_next_request_obeys_a_changed_limit(system: System, visit: Visit) -> None:
    page = await visit.signed_in()
    await page.get_by_role("link", name="Limits").click()
    assert statuses(await system.get("user1", 1)) == {200: 1}
    await page.get_by_role("group", name="User and API").get_by_label("Capacity").fill("1")
    await page.get_by_role("button", name="Review changes").click()
    await expect(page.locator("del")).to_contain_text("user_api: {capacity: 3")
    await expect(page.locator("ins")).to_contain_text("user_api: {capacity: 1")
    await page.get_by_label("Note").fill("one is enough")
    await applied(page)
    after = await system.get("user1", 3)
    assert [reply.status_code for reply in after] == [200, 429, 429]
    assert all('"user_api";q=1;' in reply.headers["ratelimit-policy"] for reply in after)

    await page.get_by_role("group", name="User and API").get_by_label("Refill").fill("60000/min")
    await page.get_by_role("button", name="Review changes").click()
    await applied(page)
    assert statuses(await system.get("user1", 1)) == {200: 1}
    newest = (await system.control.current()).revision
    assert newest.author == NAME
    await page.get_by_role("link", name="History").click()
    await expect(page.get_by_role("cell", name="one is enough")).to_be_visible()


async def test_requests_appear_on_the_first_page(system: System, visit: Visit) -> None:
    page = await visit.signed_in()
    assert statuses(await system.get("user0", 5)) == {200: 3, 429: 2}

    async def shown() -> bool:
        denied = (await system.control.usage(UsageRange.QUARTER_HOUR)).totals.denied
        tile = await page.locator("#tile-2").inner_text()
        return denied >= 2 and f"{denied} in total" in tile.splitlines()[-1]

    await eventually(shown, "the page shows the denied requests")
    await expect(page.get_by_role("row").filter(has_text="/api/*")).to_be_visible()
    await expect(page.locator("#tile-replicas")).to_contain_text("2 running")
    await expect(page.get_by_role("img", name="Replicas")).to_have_accessible_description(
        re.compile("latest 2, highest 2")
    )


async def test_the_slower_of_two_tabs_keeps_its_text(system: System, visit: Visit) -> None:
    slow, fast = await visit.signed_in(), await visit.page()
    mine = f"# one\n\n{limits_json(user_capacity=7, **NO_REFILL)}\n# end\n"
    await slow.get_by_role("link", name="Policy text").click()
    await slow.get_by_label("Text").fill(mine)
    await fast.goto("/admin/edit")
    await fast.get_by_label("Text").fill(limits_json(user_capacity=4, **NO_REFILL))
    await fast.get_by_role("button", name="Review changes").click()
    await applied(fast)
    await slow.get_by_role("button", name="Review changes").click()
    await expect(slow.get_by_role("heading", name="Conflict")).to_be_visible()
    await expect(slow.get_by_role("alert")).to_contain_text(f"by {NAME}")
    await expect(slow.get_by_label("Text")).to_have_value(mine)
    await expect(slow.get_by_role("region", name="Their changes")).to_contain_text("user: {capacity: 4")
    await expect(slow.get_by_role("region", name="Your changes")).to_contain_text("user: {capacity: 7")
    await slow.get_by_role("button", name="Compare with revision").click()
    await expect(slow.locator("ins")).to_contain_text("user: {capacity: 7")
    await applied(slow)
    assert (await system.control.current()).revision.text == mine


async def test_an_invalid_text_is_reported_while_typing_and_changes_nothing(
    system: System, visit: Visit
) -> None:
    before = (await system.control.current()).revision.number
    page = await visit.signed_in()
    await page.get_by_role("link", name="Policy text").click()
    area, problems = page.get_by_label("Text"), page.locator("#problems")
    await area.fill(FULL.replace("cost: 5", "cost: -1"))
    await expect(problems).to_contain_text("line 7 routes[0].cost must be 0 or more, got -1")
    await expect(area).to_have_attribute("aria-invalid", "true")
    await expect(area).to_have_accessible_description(
        "1 problem line 7 routes[0].cost must be 0 or more, got -1"
    )
    await expect(page.locator("[data-numbers] b")).to_have_text("▸7")
    await page.get_by_role("link", name="line 7").click()
    await expect(area).to_be_focused()
    assert "cost: -1" in await page.evaluate("getSelection().toString()")
    await page.get_by_role("button", name="Review changes").click()
    await expect(page.get_by_role("alert")).to_contain_text("the text is not a valid policy")
    await expect(problems).to_contain_text("routes[0].cost must be 0 or more, got -1")
    await expect(area).to_have_value(FULL.replace("cost: 5", "cost: -1"))
    await area.fill(FULL)
    await expect(problems).to_contain_text("routes[2] is unreachable")
    await expect(area).not_to_have_attribute("aria-invalid", "true")
    await expect(page.locator("[data-numbers]")).to_contain_text("▸9")
    await expect(page.locator("[data-numbers]")).not_to_contain_text("▸7")
    assert (await system.control.current()).revision.number == before


async def test_a_text_typed_before_the_script_runs_is_checked(visit: Visit) -> None:
    page = await visit.signed_in()
    typed = asyncio.Event()

    async def late(route: Route) -> None:
        await typed.wait()
        await route.continue_()

    await page.route("**/panel.js*", late)
    await page.goto("/admin/edit", wait_until="commit")
    await page.get_by_label("Text").fill("tiers: 7")
    typed.set()
    await expect(page.locator("#problems")).to_contain_text("line 1 tiers must be")


async def test_a_rollback_is_in_force_at_once(system: System, visit: Visit) -> None:
    good = await system.set_policy(limits_json(**NO_REFILL))
    await system.set_policy(limits_json(user_api_capacity=1, **NO_REFILL))
    assert statuses(await system.get("user2", 2)) == {200: 1, 429: 1}
    page = await visit.signed_in()
    await page.get_by_role("link", name="History").click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=f"Revision {good}", exact=True))
    await row.get_by_role("link", name="Roll back to this").click()
    await expect(page.locator("ins")).to_contain_text("user_api: {capacity: 3")
    await page.get_by_role("button", name="Roll back").click()
    await expect(page.get_by_text("is in force on 2 replicas")).to_be_visible()
    assert statuses(await system.get("user3", 4)) == {200: 3, 429: 1}


async def test_the_next_request_of_a_reset_user_is_allowed(system: System, visit: Visit) -> None:
    assert statuses(await system.get("user4", 8)) == {200: 3, 429: 5}
    page = await visit.signed_in()
    await page.get_by_role("link", name="Explain").click()
    await page.get_by_label("Path").fill("/api/ping")
    await page.get_by_label("User").fill("user4")
    await page.get_by_label("Context").fill("api=/api/*")
    await page.get_by_role("button", name="Explain").click()
    await expect(page.get_by_role("heading", name="The request would be denied")).to_be_visible()
    await page.get_by_role("link", name="Buckets").click()
    await page.get_by_label("User").fill("user4")
    await page.get_by_role("button", name="Look up").click()
    await expect(page.get_by_role("cell", name="rate:user:user4", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Reset").click()
    await page.get_by_role("button", name="Reset 2 buckets").click()
    await expect(page.get_by_text("Filled 2 buckets of user4.")).to_be_visible()
    assert statuses(await system.get("user4", 4)) == {200: 3, 429: 1}


async def test_a_top_user_appears_by_itself_and_leads_to_the_buckets(system: System, visit: Visit) -> None:
    page = await visit.signed_in()
    await page.get_by_role("link", name="Top users").click()
    await expect(page.get_by_role("heading", name="Top users")).to_be_visible()
    await system.get("</script>", 3)
    row = page.get_by_role("row").filter(has_text="</script>")
    await expect(row).to_contain_text("exact")  # without a reload, once a replica has published
    link = page.get_by_role("link", name="Buckets of \N{FIRST STRONG ISOLATE}</script>")
    await tab_to(page, link)
    await system.get("</script>", 2)
    await expect(row.get_by_role("cell", name="5", exact=True)).to_be_visible()  # the row was replaced
    await expect(link).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Buckets of %3C%2Fscript%3E")).to_be_visible()
    assert visit.complaints == []


async def test_the_keyboard_is_enough_to_change_a_limit(visit: Visit) -> None:
    page = await visit.page()
    await page.goto("/admin")
    press = page.keyboard.press
    await expect(page.get_by_label("Key")).to_be_focused()
    await press("Shift+Tab")
    await page.keyboard.type(NAME)
    await press("Tab")
    await page.keyboard.type("a-key-with-a-mistake")
    await press("Enter")
    await expect(page.get_by_label("Key")).to_have_accessible_description(
        "The admin key of this service, or its read-only key. This key is not valid."
    )
    await expect(page.get_by_label("Key")).to_be_focused()
    await page.keyboard.type(WRITE_KEY)
    await press("Enter")
    await expect(page.get_by_role("heading", name="Usage")).to_be_visible()
    await tab_to(page, page.get_by_role("link", name="Limits"))
    await press("Enter")
    await expect(page.get_by_role("heading", name="Limits")).to_be_visible()
    await press("Tab")
    await expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
    await press("Enter")
    await expect(page.get_by_role("main")).to_be_focused()
    await tab_to(page, page.get_by_label("Capacity").first)
    await press("Control+A")
    await page.keyboard.type("12")
    await press("Enter")
    await expect(page.get_by_role("heading", name="Review changes")).to_be_visible()
    await tab_to(page, page.get_by_role("button", name="Apply"))
    await press("Enter")
    await expect(page.get_by_text("is in force on 2 replicas")).to_be_visible()


async def test_the_panel_works_without_scripts(system: System) -> None:
    context = await system.chromium.new_context(base_url=system.panel, java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    page = await Visit(context).signed_in()
    await page.get_by_role("link", name="Policy text").click()
    await page.get_by_label("Text").fill("tiers: 7")
    await page.get_by_role("button", name="Review changes").click()
    await expect(page.locator("#problems")).to_contain_text("tiers")
    await page.get_by_label("Text").fill(limits_json(global_capacity=11, **NO_REFILL))
    await page.get_by_role("button", name="Review changes").click()
    await applied(page)
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await context.close()


async def test_going_back_after_signing_out_asks_for_the_key(visit: Visit) -> None:
    page = await visit.signed_in()
    await page.get_by_role("link", name="History").click()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_text("You are signed out.")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await expect(page.get_by_role("heading", name="History")).to_have_count(0)


async def test_a_link_from_another_site_keeps_the_visitor_signed_in(system: System, visit: Visit) -> None:
    await visit.signed_in()
    page = await visit.page()
    await page.route(
        "http://elsewhere.test/",
        lambda route: route.fulfill(
            body=f'<a href="{system.panel}/admin/history">look</a>',
            content_type="text/html",
            headers={"content-security-policy": "default-src 'none'"},
        ),
    )
    await page.goto("http://elsewhere.test/")
    await page.get_by_role("link", name="look").click()
    await expect(page.get_by_role("heading", name="History")).to_be_visible()


async def shown(system: System, visit: Visit) -> list[Page]:
    """Opens every page with long content in a tab each. The last shows a refused text and invalid numbers."""
    number = await system.set_policy(FULL)
    await asyncio.gather(*(system.get(LONG) for _ in range(3)))

    async def counted() -> bool:
        return bool((await system.control.status()).shadow)

    await eventually(counted, "what shadow would have denied")
    pages = [await visit.page()]
    await pages[0].goto("/admin")
    pages.append(await visit.signed_in())
    for path in PAGES:
        pages.append(await visit.page())
        await pages[-1].goto(path.format(number=number, before=number - 1))
    wrong = await visit.page()
    await wrong.goto("/admin/edit")
    await wrong.get_by_label("Text").fill(FULL.replace("cost: 5", "cost: -1"))
    await expect(wrong.locator("#problems")).to_contain_text("got -1")
    changes = await visit.page()
    await changes.goto("/admin/edit")
    await changes.get_by_label("Text").fill(FULL.replace("cost: 5", "cost: 6"))
    await changes.get_by_role("button", name="Review changes").click()
    await expect(changes.get_by_role("heading", name="Review changes")).to_be_visible()
    await system.store.set(KEY, "{")
    refused = await visit.page()
    await refused.goto("/admin/limits")
    await expect(refused.get_by_role("alert")).to_contain_text("The policy text in the store is not valid")
    await refused.get_by_label("Capacity").first.fill("none")
    await refused.get_by_role("button", name="Review changes").click()
    await expect(refused.get_by_label("Capacity").first).to_have_attribute("aria-invalid", "true")
    return [*pages, wrong, changes, refused]


async def test_a_phone_shows_every_page_without_scrolling_sideways(system: System, visit: Visit) -> None:
    pages = await shown(system, visit)
    for page in pages:
        await page.set_viewport_size(PHONE)  # type: ignore[arg-type] # its TypedDict is not exported
        assert await page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], page.url
        assert await page.evaluate(OUT_OF_SIGHT) == [], page.url


async def test_a_phone_scrolls_to_the_result(visit: Visit) -> None:
    """The result is below a form as high as the screen."""
    page = await visit.signed_in()
    await page.set_viewport_size(PHONE)  # type: ignore[arg-type] # its TypedDict is not exported
    await page.goto("/admin/explain")
    await page.get_by_role("button", name="Explain").click()
    await expect(page.get_by_role("heading", name="The request would be allowed")).to_be_in_viewport()
    await page.goto("/admin/buckets")
    await page.get_by_label("User").fill("dave")
    await page.get_by_role("button", name="Look up").click()
    await expect(page.get_by_text("All buckets are full")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_all_text_has_enough_contrast(system: System, visit: Visit, scheme: Any) -> None:
    pages = await shown(system, visit)
    grounds = set()
    for page in pages:
        await page.emulate_media(color_scheme=scheme)
        assert await page.evaluate(FAINT) == [], page.url
        grounds.add(await page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(246, 247, 249)" if scheme == "light" else "rgb(18, 21, 27)"}
