"""Revisions and rollbacks."""

import pytest

from ratelimitd.control.control import Control
from ratelimitd.rollout.expected import Expected
from tests.admin.panel.browser import FULL, Browser, expected, newest
from tests.example_limits import limits_json


async def test_a_rollback_is_reviewed_confirmed_and_creates_a_revision(
    browser: Browser, control: Control
) -> None:
    await control.apply(limits_json(), author="dave", note="", expected=Expected(1))
    history = await browser.get("/admin/history")
    assert 'href="/admin/history/1/rollback"' in history.text
    assert 'href="/admin/history/2/rollback"' not in history.text
    question = await browser.get("/admin/history/1/rollback")
    assert "<ins>+ routes:</ins>" in question.text
    after = await browser.submit("/admin/history/1/rollback", question, expected=expected(question))
    assert "Revision 3 is accepted." in after.text
    assert await newest(control) == (3, FULL)
    history = await browser.get("/admin/history")
    assert "rollback to 1" in history.text
    assert (await control.current()).revision.author == "carol"


async def test_a_rollback_that_conflicts_asks_again(browser: Browser, control: Control) -> None:
    await control.apply(limits_json(), author="dave", note="", expected=Expected(1))
    question = await browser.get("/admin/history/1/rollback")
    await control.apply(limits_json(user_rate=9), author="erin", note="", expected=Expected(2))
    conflict = await browser.submit("/admin/history/1/rollback", question, expected=expected(question))
    assert conflict.status_code == 409
    assert "by <strong>erin</strong>" in conflict.text
    assert expected(conflict).startswith("3-")
    assert (await newest(control))[0] == 3


async def test_a_revision_shows_its_text_and_what_it_changed(browser: Browser, control: Control) -> None:
    await control.apply(FULL.replace("500", "501"), author="dave", note="", expected=Expected(1))
    page = await browser.get("/admin/history/2")
    assert "<ins>+   global: {capacity: 501, refill_rate: 50}</ins>" in page.text
    assert "in force" in page.text
    page = await browser.get("/admin/edit?from=1")
    assert FULL.strip() in page.text
    assert expected(page).startswith("2-")


@pytest.mark.parametrize(
    "path", ["/admin/history/99", "/admin/history/x", "/admin/history/99/rollback", "/admin/edit?from=-1"]
)
async def test_an_unknown_revision_is_404(browser: Browser, path: str) -> None:
    page = await browser.get(path)
    assert (page.status_code, "Revision not found" in page.text) == (404, True)
