"""What the pages say when the store was emptied, refuses writes, or holds keys of another type."""

from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.rollout.snapshot import LostPolicy, write_lost
from tests.admin.panel.browser import READ, Browser, browsing, expected, newest
from tests.example_limits import KEY, limits_json


async def lose_policy(store: Redis) -> None:
    """Leaves the store as replicas leave it that noticed that it was emptied."""
    await store.flushall()
    await write_lost(store, KEY, LostPolicy(number=7, noticed_us=1, text=limits_json()))


async def test_a_lost_policy_has_a_banner_and_is_written_back(
    browser: Browser, control: Control, store: Redis
) -> None:
    await lose_policy(store)
    for path in ("/admin/limits", "/admin/edit", "/admin/replicas"):
        page = await browser.get(path)
        assert "The store was emptied" in page.text
        assert "Write revision 7 back" in page.text
    after = await browser.submit("/admin/restore", page, expected="7")
    assert "Revision 8 is accepted. No replica is running." in after.text
    assert "The store was emptied" not in after.text
    assert await newest(control) == (8, limits_json())
    again = await browser.submit("/admin/restore", page, expected="7")
    assert (again.status_code, "There is nothing to restore" in again.text) == (409, True)


async def test_a_lost_policy_can_be_edited(browser: Browser, control: Control, store: Redis) -> None:
    await lose_policy(store)
    page = await browser.get("/admin/limits")
    text = limits_json(user_capacity=9)
    await browser.submit("/admin/apply", page, expected=expected(page), text=text)
    assert await newest(control) == (8, text)


async def test_a_read_only_key_shows_the_banner_without_the_button(control: Control, store: Redis) -> None:
    await lose_policy(store)
    async with browsing(control) as browser:
        await browser.sign_in(READ)
        page = await browser.get("/admin/limits")
        assert "The store was emptied" in page.text
        assert "/admin/restore" not in page.text
        assert (await browser.submit("/admin/restore", page, expected="7")).status_code == 403


async def test_a_store_that_refuses_writes_has_a_warning(browser: Browser, store: Redis) -> None:
    await store.config_set("maxmemory", "100kb")
    try:
        pages = [await browser.get(path) for path in ("/admin/limits", "/admin/replicas")]
    finally:
        await store.config_set("maxmemory", "0")
    for page in pages:
        assert "The store refuses writes" in page.text
        assert "No replica has reported" not in page.text
        assert "none running" not in page.text


async def test_keys_of_another_type_are_named(browser: Browser, store: Redis) -> None:
    await store.set(f"{{{KEY}}}:replicas", "no hash")
    page = await browser.get("/admin/replicas")
    assert (page.status_code, f"{{{KEY}}}:replicas must be a hash" in page.text) == (200, True)
    await store.set(f"{{{KEY}}}:revisions", "no hash")
    page = await browser.get("/admin/limits")
    assert (page.status_code, f"{{{KEY}}}:revisions must be a hash" in page.text) == (503, True)
