"""Forms and pages: CSRF tokens, sessions and roles."""

import re
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.rollout.expected import Expected
from tests.admin.panel.browser import CONFIRMATIONS, PAGES, POSTS, READ, WRITE, Browser, browsing, newest
from tests.example_limits import KEY, limits_json


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("sent", [{}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "ü"}])
async def test_a_form_without_the_token_of_the_session_is_403(
    browser: Browser, control: Control, path: str, sent: dict[str, str]
) -> None:
    before = await newest(control)
    fields = {"text": limits_json(), "expected": "1", "user": "alice", "key": WRITE}
    page = await browser.post(path, data=fields | sent)
    assert (page.status_code, "This form has expired" in page.text) == (403, True)
    assert await newest(control) == before
    assert (await browser.get("/admin/limits")).status_code == 200


async def test_a_form_without_a_session_is_403(control: Control) -> None:
    async with browsing(control) as browser:
        for sent in ({}, {"csrf": ""}):
            page = await browser.post("/admin/login", data={"key": WRITE, **sent})
            assert (page.status_code, "set-cookie" in page.headers) == (403, False)


async def test_a_form_of_a_visitor_who_is_not_signed_in_is_not_read(control: Control) -> None:
    """It may be long, and such visitors may be many."""
    read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield b""

    async with browsing(control) as browser:
        form = {"content-type": "application/x-www-form-urlencoded"}
        page = await browser.post("/admin/edit", content=body(), headers=form)
    assert (page.status_code, read) == (401, False)


@pytest.mark.parametrize("path", [path for path in POSTS if path not in {"/admin/login", "/admin/logout"}])
async def test_a_form_after_signing_out_changes_nothing(control: Control, path: str) -> None:
    async with browsing(control) as browser:
        form = await browser.get("/admin/login")
        page = await browser.submit(path, form, text=limits_json(), expected="1", user="alice")
        assert (page.status_code, "You are signed out" in page.text) == (401, True)
    assert (await newest(control))[0] == 1


async def test_a_read_only_key_shows_every_page_and_changes_nothing(control: Control, store: Redis) -> None:
    await control.apply(limits_json(), author="dave", note="", expected=Expected(1))
    await store.hset("rate:user:alice", mapping={"tokens": "1", "last": "1"})
    async with browsing(control) as browser:
        await browser.sign_in(key=READ)
        for path in PAGES:
            page = await browser.get(path)
            assert page.status_code == 200
            assert "/rollback" not in page.text
            forms = re.findall(r'<form[^>]*action="([^"]*)"', page.text)
            assert set(forms) <= {
                "/admin/logout",
                "/admin/limits",
                "/admin/edit",
                "/admin/explain#answer",
                "/admin/buckets#found",
            }
            assert re.findall(r"<button[^>]*>([^<]*)", page.text) in (
                ["Sign out"],
                ["Sign out", "Explain"],
                ["Sign out", "Look up"],
                ["Sign out", "Pause updates"],
            )
        for path in CONFIRMATIONS:
            assert (await browser.get(path)).status_code == 403
        page = await browser.get("/admin/limits")
        for path in POSTS[2:]:
            reply = await browser.submit(path, page, text=limits_json(), expected="1", user="alice")
            assert (reply.status_code, "This key is read-only" in reply.text) == (403, True)
    assert (await newest(control))[0] == 2
    assert await store.exists("rate:user:alice")


async def test_pages_for_a_read_only_key_do_not_mention_changes(control: Control, store: Redis) -> None:
    await store.set(KEY, "{")
    async with browsing(control) as browser:
        await browser.sign_in(key=READ)
        pages = [await browser.get(path) for path in ("/admin/limits", "/admin/edit", "/admin/replicas")]
    assert all("The policy text in the store is not valid" in page.text for page in pages)
    assert not [
        page for page in pages if "Apply a policy here" in page.text or "You are editing" in page.text
    ]
    assert "100/min" not in pages[0].text
    assert "Revision 1 is in force." in pages[1].text
