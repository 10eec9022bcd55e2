"""Changing limits with a form or a text: review, problems, conflicts."""

import re

import pytest
from redis.asyncio import Redis

from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.control.control import Control
from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.text import MAX_BYTES
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.replicas import Replicas
from tests.admin.panel.browser import (
    FULL,
    Browser,
    ParsedPage,
    browsing,
    expected,
    field_value,
    newest,
    token,
)
from tests.example_limits import KEY, limits_json
from tests.replicas import replica


async def test_limits_are_changed_with_a_form(browser: Browser, control: Control) -> None:
    page = await browser.get("/admin/limits")
    changes = await browser.submit(
        "/admin/limits", page, expected=expected(page), global_capacity="700", global_rate="50"
    )
    assert "<del>-   global: {capacity: 500, refill_rate: 50}</del>" in changes.text
    assert "<ins>+   global: {capacity: 700, refill_rate: 50}</ins>" in changes.text
    text = field_value(changes, "text")
    after = await browser.submit(
        "/admin/apply", changes, expected=expected(changes), text=text, note="a campaign"
    )
    assert "Revision 2 is accepted. No replica is running." in after.text
    assert "is accepted" not in (await browser.get("/admin/limits")).text
    newest = (await control.current()).revision
    assert (newest.number, newest.author, newest.note) == (2, "carol", "a campaign")


async def test_a_note_has_up_to_500_characters_and_is_never_cut(browser: Browser, control: Control) -> None:
    longest = "é" * 500
    page = await browser.submit(
        "/admin/edit", await browser.get("/admin/edit"), expected="1", text=FULL + "#"
    )
    assert 'maxlength="500"' in page.text
    fields = {"expected": "1", "text": FULL + "#"}
    refused = await browser.submit("/admin/apply", page, note=longest + "!", **fields)
    assert refused.status_code == 422
    assert "The note must have at most 500 characters." in refused.text
    assert (await control.current()).revision.number == 1
    await browser.submit("/admin/apply", page, note=longest, **fields)
    assert (await control.current()).revision.note == longest
    page = await browser.get("/admin/history/1/rollback")
    assert 'maxlength="500"' in page.text
    refused = await browser.submit("/admin/history/1/rollback", page, expected="2", note=longest + "!")
    assert (refused.status_code, (await control.current()).revision.number) == (422, 2)


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        limits_json(user_rate=1 / 3, global_rate=0.000001, user_api_rate=123456.7891),
        "\ufeff" + limits_json(),
    ],
)
async def test_a_form_that_is_sent_unchanged_changes_no_limit(
    browser: Browser, control: Control, text: str
) -> None:
    await control.apply(text, author="alice", note="", expected=None)
    parser = ParsedPage()
    parser.feed((await browser.get("/admin/limits")).text)
    page = await browser.post("/admin/limits", data=parser.values)
    assert "The limits stay the same" in page.text or "No changes: this is the text" in page.text


async def test_an_invalid_number_is_reported_at_its_field(browser: Browser, control: Control) -> None:
    page = await browser.get("/admin/limits")
    wrong = await browser.submit(
        "/admin/limits", page, expected=expected(page), global_capacity="3", global_rate="many"
    )
    assert wrong.status_code == 422
    assert 'value="many"' in wrong.text
    assert wrong.text.count("must be a number") == 1
    assert re.search(
        r'id="global_rate"[^>]*aria-describedby="[^"]*global_rate-error" aria-invalid="true"', wrong.text
    )
    wrong = await browser.submit(
        "/admin/limits", page, expected=expected(page), global_capacity="3", global_rate="1"
    )
    assert "<code>routes[0].cost</code>" in wrong.text
    assert (await newest(control))[0] == 1


async def test_an_invalid_text_comes_back_with_its_problems(browser: Browser, control: Control) -> None:
    page = await browser.get("/admin/edit")
    text = FULL.replace("cost: 5", "cost: -1").replace("off", "on")
    for path in ("/admin/edit", "/admin/apply"):
        wrong = await browser.submit(path, page, expected=expected(page), text=text)
        assert wrong.status_code == 422
        assert "<code>routes[0].cost</code> must be 0 or more, got -1" in wrong.text
        assert "<code>tiers.user_api</code>" in wrong.text
        assert 'aria-describedby="problems" aria-invalid="true"' in wrong.text
        assert "cost: -1" in wrong.text
    assert (await newest(control))[0] == 1


async def test_a_text_is_checked_while_typing(browser: Browser) -> None:
    headers = {"x-csrf-token": token(await browser.get("/admin/edit"))}
    for text, said in (
        (FULL, "Valid policy."),
        (FULL.replace("cost: 5", "cost: x"), "<code>routes[0].cost</code>"),
        (FULL + "shadow: 7\n<script>: 1", "&lt;script&gt;"),
        ("", "1 problem"),
    ):
        reply = await browser.post("/admin/edit/check", data={"text": text}, headers=headers)
        assert reply.status_code == 200
        assert said in reply.text
        assert "<html" not in reply.text


async def test_a_text_keeps_its_line_ends(browser: Browser, control: Control) -> None:
    """Browsers send CR LF."""
    page = await browser.get("/admin/edit")
    text = FULL.replace("500", "501")
    await browser.submit("/admin/apply", page, expected="1", text=text.replace("\n", "\r\n"))
    assert await newest(control) == (2, text)


async def test_the_longest_text_fits_into_the_form(browser: Browser, control: Control) -> None:
    page = await browser.get("/admin/edit")
    text = FULL + "#{[\n" * ((MAX_BYTES - len(FULL)) // 4)
    await browser.submit("/admin/apply", page, expected="1", text=text.replace("\n", "\r\n"))
    assert await newest(control) == (2, text)


async def test_edit_text_returns_to_the_editor_with_text_and_note(browser: Browser) -> None:
    page = await browser.get("/admin/edit")
    again = await browser.submit(
        "/admin/edit", page, expected="1", text=FULL + "# mine", note="why", again="1"
    )
    assert again.status_code == 200
    assert "# mine</textarea>" in again.text
    assert field_value(again, "note") == "why"


async def test_a_conflict_keeps_the_text_and_shows_both_changes(browser: Browser, control: Control) -> None:
    page = await browser.get("/admin/edit")
    mine = FULL.replace("100, rate", "120, rate")
    theirs = FULL.replace("500", "900")
    await control.apply(theirs, author="dave", note="mine is faster", expected=Expected(1))
    for path in ("/admin/edit", "/admin/apply"):
        conflict = await browser.submit(path, page, expected=expected(page), text=mine, note="why")
        assert conflict.status_code == 409
        assert "by <strong>dave</strong>" in conflict.text
        assert "UTC" in conflict.text
        assert "<q>mine is faster</q>" in conflict.text
        assert "<ins>+   global: {capacity: 900, refill_rate: 50}</ins>" in conflict.text
        assert "<ins>+   user: {capacity: 120, refill_rate: 5, shadow: true}</ins>" in conflict.text
        assert field_value(conflict, "text") == mine
        assert await newest(control) == (2, theirs)
    changes = await browser.submit(
        "/admin/edit", conflict, expected=expected(conflict), text=mine, note="why"
    )
    assert "<del>-   global: {capacity: 900, refill_rate: 50}</del>" in changes.text
    assert field_value(changes, "note") == "why"
    await browser.submit("/admin/apply", changes, expected=expected(changes), text=mine)
    assert await newest(control) == (3, mine)


@pytest.mark.parametrize(
    "path", ["/admin/limits", "/admin/edit", "/admin/apply", "/admin/history/1/rollback"]
)
async def test_a_direct_write_over_an_unrecorded_text_is_a_conflict(
    browser: Browser, control: Control, store: Redis, path: str
) -> None:
    """Both texts have the same number until one is recorded."""
    await store.set(KEY, limits_json())
    page = await browser.get(path if path.startswith("/admin/history") else "/admin/limits")
    started = expected(page)
    await store.set(KEY, limits_json(user_capacity=9))
    conflict = await browser.submit(path, page, expected=started, text=FULL, user_capacity="7")
    assert conflict.status_code == 409
    assert (await control.current()).revision.text == limits_json(user_capacity=9)
    assert re.search("directly", conflict.text)
    again = await browser.submit("/admin/apply", conflict, expected=expected(conflict), text=FULL)
    assert (again.status_code, (await control.current()).revision.text) == (200, FULL)


async def test_a_conflict_keeps_the_text_when_no_diff_is_possible(
    browser: Browser, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example from a revision that another version of ratelimitd wrote."""

    async def unreadable(*_: object) -> str:
        raise PolicyError(Problem("tiers", "unknown key"))

    page = await browser.get("/admin/edit")
    await control.apply(limits_json(), author="dave", note="", expected=Expected(1))
    monkeypatch.setattr(Control, "diff", unreadable)
    conflict = await browser.submit("/admin/edit", page, expected="1", text=FULL)
    assert (conflict.status_code, field_value(conflict, "text")) == (409, FULL)


async def test_a_change_that_not_every_replica_runs_leads_to_the_replicas(
    control: Control, store: Redis
) -> None:
    now_us = (await control.status()).now_us
    slow = replica("slow:1", number=1, refused="tiers: must be given", started_us=now_us, seen_us=now_us)
    await Replicas(store, KEY).publish(slow)
    async with browsing(control, deadlines=Deadlines(replicas_s=0.1)) as browser:
        await browser.sign_in()
        page = await browser.get("/admin/edit")
        after = await browser.submit("/admin/apply", page, expected="1", text=FULL.replace("500", "501"))
    assert after.url.path == "/admin/replicas"
    assert "not every replica runs it yet" in after.text
    assert re.search(r"slow:1.*revision 1.*behind.*tiers: must be given", after.text, re.DOTALL)


async def test_an_invalid_text_in_the_store_is_shown_as_a_banner(browser: Browser, store: Redis) -> None:
    await store.set(KEY, limits_json(**{"<b>": 1}))
    for path in ("/admin/limits", "/admin/edit", "/admin/replicas"):
        page = await browser.get(path)
        assert "The policy text in the store is not valid" in page.text
        assert "<code>&lt;b&gt;</code>" in page.text
    assert 'value="500"' in (await browser.get("/admin/limits")).text


async def test_a_problem_that_every_replica_reports_is_shown_once(
    browser: Browser, store: Redis, control: Control
) -> None:
    await store.set(KEY, limits_json(user_rate=-1))
    now_us = (await control.status()).now_us
    for name in ("one:1", "two:1"):
        refusing = replica(
            name, number=1, refused="user_rate: must be more", started_us=now_us, seen_us=now_us
        )
        await Replicas(store, KEY).publish(refusing)
    page = await browser.get("/admin/replicas")
    assert page.text.count("refuses the text") == 2
    assert "user_rate: must be more" not in page.text
