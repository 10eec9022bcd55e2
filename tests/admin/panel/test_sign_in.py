"""Signing in and out: keys, names, sessions and redirects."""

import pytest
from structlog.testing import capture_logs

from ratelimitd.admin import authentication
from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.panel.session import MAX_NAME
from ratelimitd.control.control import Control
from tests.admin.panel.browser import WRITE, Browser, browsing, token


async def test_the_session_is_a_strict_cookie_without_the_key(control: Control) -> None:
    async with browsing(control) as browser:
        form = await browser.get("/admin/login")
        reply = await browser.post("/admin/login", data={"csrf": token(form), "key": WRITE})
        cookie = reply.headers["set-cookie"].lower()
        assert cookie.startswith("ratelimitd_session=")
        assert {"httponly", "samesite=strict", "max-age=28800"} <= set(cookie.split("; "))
        assert WRITE not in reply.headers["set-cookie"]
        assert (reply.status_code, reply.headers["location"]) == (303, "/admin")


async def test_signing_in_renews_the_csrf_token(control: Control) -> None:
    """An attacker may have planted the token before."""
    async with browsing(control) as browser:
        before = token(await browser.get("/admin/login"))
        after = token(await browser.sign_in())
        assert before != after
        assert (await browser.post("/admin/logout", data={"csrf": before})).status_code == 403


async def test_a_wrong_key_is_refused_and_logged(control: Control) -> None:
    async with browsing(control) as browser:
        with capture_logs() as logs:
            page = await browser.sign_in(key="nearly-the-right-key")
        assert page.status_code == 401
        assert "This key is not valid." in page.text
        assert 'aria-describedby="key-hint key-error" aria-invalid="true"' in page.text
        assert [line["event"] for line in logs] == ["admin_key_refused"]
        assert (await browser.get("/admin")).headers["location"].startswith("/admin/login")


async def test_too_many_wrong_keys_get_an_error_page(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MAX_DELAYED", 0)
    async with browsing(control) as browser:
        page = await browser.sign_in(key="nearly-the-right-key")
        assert (page.status_code, "Too many wrong keys" in page.text) == (429, True)


@pytest.mark.parametrize("name", ["External", "x" * (MAX_NAME + 1)])
async def test_a_reserved_or_long_name_is_refused(control: Control, name: str) -> None:
    async with browsing(control) as browser:
        page = await browser.sign_in(name=name)
        assert page.status_code == 422
        assert "name-error" in page.text


@pytest.mark.parametrize(
    ("wanted", "reached"),
    [
        ("/admin/history?all=1", "/admin/history?all=1"),
        ("https://elsewhere.test/admin", "/admin"),
        ("//elsewhere.test/admin", "/admin"),
        ("/administrator", "/admin"),
    ],
)
async def test_signing_in_leads_to_the_wanted_page_of_the_panel_only(
    control: Control, wanted: str, reached: str
) -> None:
    async with browsing(control) as browser:
        form = await browser.get("/admin/login", params={"next": wanted})
        reply = await browser.post("/admin/login", data={"csrf": token(form), "key": WRITE, "next": wanted})
        assert reply.headers["location"] == reached


async def test_a_link_from_another_site_keeps_the_session(control: Control) -> None:
    """Its request comes without the strict cookie, so the page reloads itself and sets none."""
    async with browsing(control) as browser:
        reply = await browser.get("/admin/history?all=1", headers={"Sec-Fetch-Site": "cross-site"})
        assert 'content="0; url=/admin/history?all=1"' in reply.text
        assert "set-cookie" not in reply.headers


async def test_removing_a_key_ends_its_sessions(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AdminKeys, "session_secret", lambda _: "of a test, the same for all keys")
    async with browsing(control) as browser:
        await browser.sign_in()
        assert (await browser.get("/admin")).status_code == 200
        cookies = browser.cookies
    async with browsing(control, AdminKeys(("another-key-of-a-test",), ())) as later:
        later.cookies = cookies
        assert (await later.get("/admin")).headers["location"] == "/admin/login?next=/admin"


async def test_signing_out_ends_the_session(browser: Browser) -> None:
    page = await browser.submit("/admin/logout", await browser.get("/admin"))
    assert "You are signed out." in page.text
    assert (await browser.get("/admin")).status_code == 303
