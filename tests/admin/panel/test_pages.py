"""Properties of every page: accessibility, escaping, errors."""

import asyncio
import itertools
import re

import pytest
from redis.asyncio import Redis

from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.admin.panel.session import MAX_NAME
from ratelimitd.control.control import Control
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.rollout.expected import Expected
from ratelimitd.store.client import open_client
from tests.admin.panel.browser import (
    CONFIRMATIONS,
    FULL,
    PAGES,
    SETTINGS,
    Browser,
    ParsedPage,
    browsing,
    token,
)


@pytest.mark.parametrize("path", [*PAGES, *CONFIRMATIONS, "/admin/history/99", "/admin/explain?path=x"])
async def test_a_page_is_accessible(browser: Browser, store: Redis, path: str) -> None:
    await store.hset("rate:user:alice", mapping={"tokens": "7.5", "last": "1"})
    page = await browser.get(path)
    parser = ParsedPage()
    parser.feed(page.text)
    tags = [tag for tag, _ in parser.tags]
    assert ("html", {"lang": "en"}) in parser.tags
    assert re.search(r"<title>[^<]+ · ratelimitd</title>", page.text)
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = parser.all("id")
    assert len(ids) == len(set(ids))
    labelled = set(parser.all("for"))
    for tag, found in parser.tags:
        if tag in {"input", "textarea", "select"} and found.get("type") != "hidden":
            assert found["id"] in labelled
    described = {one for value in parser.all("aria-describedby") for one in value.split()}
    assert described | labelled | set(parser.all("aria-labelledby")) <= set(ids)
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", [*PAGES, *CONFIRMATIONS, "/admin/history/99"])
async def test_a_page_has_no_inline_code(browser: Browser, path: str) -> None:
    parser = ParsedPage()
    parser.feed((await browser.get(path)).text)
    for tag, found in parser.tags:
        assert tag != "style"
        assert tag != "script" or (found.get("src") or "").startswith("/admin/static/")
        assert not [name for name in found if name == "style" or name.startswith("on")]


async def test_user_input_is_escaped_everywhere(control: Control, store: Redis) -> None:
    evil = "<script>alert(1)</script>"
    text = FULL.replace("# a comment", f"# </textarea></pre>{evil}").replace("alice", f'"{evil}"')
    await control.apply(text, author=evil, note=evil, expected=Expected(1))
    await store.hset(f"rate:user:{evil}", mapping={"tokens": "1", "last": "1"})
    async with browsing(control) as browser:
        await browser.sign_in(name=evil)
        seen = [
            await browser.get(path)
            for path in (
                *(path.replace("/1", "/2") for path in PAGES),
                "/admin/history/1/rollback",
                f"/admin/explain?path=/{evil}&user={evil}&headers={evil}",
                f"/admin/buckets?user={evil}",
                f"/admin/buckets/reset?user={evil}",
                f"/admin/history/{evil.replace('/', '%2F')}",
                f"/admin/edit?from={evil}",
            )
        ]
        edit = seen[1]
        seen.append(await browser.submit("/admin/edit", edit, expected="2", text=text + "shadow: true"))
        seen.append(await browser.submit("/admin/edit", edit, expected="1", text=text))
        seen.append(await browser.submit("/admin/apply", edit, expected="2", text=text + evil))
        seen.append(await browser.submit("/admin/buckets/reset", edit, user=evil))
    shown = [page.text for page in seen]
    assert not [page for page in shown if evil in page or "</pre><script>" in page]
    assert sum("&lt;script&gt;" in page for page in shown) > len(shown) / 2


@pytest.mark.parametrize("path", ["/admin/nothing", "/admin/apply"])
async def test_an_unknown_path_is_404(browser: Browser, path: str) -> None:
    page = await browser.get(path)
    assert (page.status_code, "Page not found" in page.text) == (404, True)


@pytest.mark.parametrize("typed", ["/", "/admin/"])
async def test_the_root_and_a_trailing_slash_redirect_to_the_panel(browser: Browser, typed: str) -> None:
    page = await browser.get(typed, follow_redirects=True)
    assert (page.status_code, page.url.path, "<h1>Usage" in page.text) == (200, "/admin", True)


@pytest.mark.parametrize("name", ["panel.css", "panel.js", "icon.svg"])
async def test_static_files_are_public(control: Control, name: str) -> None:
    async with browsing(control) as browser:
        assert f"/admin/static/{name}?" in (await browser.get("/admin/login")).text
        assert (await browser.get(f"/admin/static/{name}")).status_code == 200


async def test_a_session_fits_in_a_cookie(browser: Browser) -> None:
    await browser.submit("/admin/logout", await browser.get("/admin"))
    await browser.sign_in(name="\U00010400" * MAX_NAME)
    page = await browser.get("/admin")
    reply = await browser.post("/admin/buckets/reset", data={"csrf": token(page), "user": "\U00010400" * 300})
    assert reply.status_code == 303
    assert len(reply.headers["set-cookie"].partition(";")[0]) < 4096


async def test_a_store_outage_is_an_error_page() -> None:
    async with (
        open_client(f"redis://{LOOPBACK}:{free_port()}/0") as client,
        browsing(Control(client, SETTINGS)) as browser,
    ):
        page = await browser.sign_in()
        form = await browser.get("/admin/explain")
        for reply in (
            page,
            *[await browser.get(path) for path in (*PAGES, *CONFIRMATIONS)],
            await browser.submit("/admin/buckets/reset", form, user="alice"),
            await browser.submit("/admin/history/1/rollback", form, expected="1"),
            await browser.submit("/admin/limits", form, expected="1"),
        ):
            assert (reply.status_code, "Store unavailable" in reply.text) == (503, True)
            assert "Traceback" not in reply.text
        assert 'href="/admin/buckets?user=alice">Try again' in (await browser.get(PAGES[-1])).text
        for path in ("/admin/edit", "/admin/apply"):
            reply = await browser.submit(path, form, expected="1", text=FULL)
            assert (reply.status_code, FULL in reply.text) == (503, True)


async def test_a_store_that_hangs_is_an_error_page() -> None:

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            pass
        writer.close()

    silent = await asyncio.start_server(hang, LOOPBACK)
    host, port = silent.sockets[0].getsockname()
    async with (
        silent,
        open_client(f"redis://{host}:{port}/0") as client,
        browsing(Control(client, SETTINGS), deadlines=Deadlines(page_s=0.3, call_s=0.1)) as browser,
    ):
        page = await browser.sign_in()
        assert (page.status_code, "Store unavailable" in page.text) == (503, True)
        form = await browser.submit("/admin/edit", page, expected="1", text=FULL)
        assert (form.status_code, FULL in form.text) == (503, True)
