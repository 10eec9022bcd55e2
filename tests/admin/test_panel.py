"""The panel as a browser without scripts sees it: forms, pages and their statuses, over a real store."""

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.admin import authentication
from ratelimitd.admin.admin_keys import AdminKeys
from ratelimitd.admin.app import DEADLINES, admin_app
from ratelimitd.admin.deadlines import Deadlines
from ratelimitd.admin.panel.session import MAX_NAME
from ratelimitd.admin.panel.tier_form import with_numbers
from ratelimitd.control.control import Control
from ratelimitd.display import duration, tokens, utc_time
from ratelimitd.errors import PolicyError, Problem
from ratelimitd.policy.text import MAX_BYTES, normal_text, parse
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.transport.client import ask
from tests.limits import KEY, limits_json
from tests.replicas import replica

WRITE, READ = "write-key-of-a-test", "read-key-of-a-test"
SETTINGS = load({}, {})
KEYS = AdminKeys((WRITE,), (READ,))
FULL = """\
# why it is so
tiers:
  global: {capacity: 500, refill_rate: 50}
  user: {capacity: 100, rate: 300/min, shadow: true}
  user_api: off
routes:
  - {path: /api/orders, cost: 5}
overrides:
  users: {alice: {user: {capacity: 1000, refill_rate: 100}}}
"""
POSTS = (
    "/admin/login",
    "/admin/logout",
    "/admin/limits",
    "/admin/edit",
    "/admin/edit/check",
    "/admin/apply",
    "/admin/history/1/rollback",
    "/admin/buckets/reset",
)
PAGES = (
    "/admin",
    "/admin/edit",
    "/admin/history",
    "/admin/history/1",
    "/admin/replicas",
    "/admin/explain?path=/api/orders&user=alice",
    "/admin/buckets?user=alice",
)
ON_THE_WAY = ("/admin/history/1/rollback", "/admin/buckets/reset?user=alice")


class Browser(httpx.AsyncClient):
    """A browser without scripts: it keeps cookies, follows what forms answer, and sends a page's token."""

    async def submit(self, path: str, on: httpx.Response, **fields: str) -> httpx.Response:
        """Posts a form that stands on a page."""
        return await self.post(path, data={"csrf": token(on), **fields}, follow_redirects=True)

    async def sign_in(self, key: str = WRITE, name: str = "carol") -> httpx.Response:
        """The page after signing in."""
        return await self.submit("/admin/login", await self.get("/admin/login"), key=key, name=name)


def token(page: httpx.Response) -> str:
    """The token of a page's forms."""
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def expected(page: httpx.Response) -> str:
    """The number of the revision that a page's form begins with."""
    found = re.search(r'name="expected" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


@asynccontextmanager
async def browsing(
    control: Control, keys: AdminKeys = KEYS, deadlines: Deadlines = DEADLINES
) -> AsyncIterator[Browser]:
    """A browser on an admin service."""
    app = admin_app(control, keys, SETTINGS, ask, refusal_delay_s=0, deadlines=deadlines)
    async with Browser(transport=httpx.ASGITransport(app), base_url="http://panel.test") as browser:
        yield browser


@pytest.fixture
async def control(store: Redis) -> Control:
    """The control of an empty store with one revision, by alice."""
    control = Control(store, SETTINGS)
    await control.apply(FULL, author="alice", note="the first", expected=0)
    return control


@pytest.fixture
async def browser(control: Control) -> AsyncIterator[Browser]:
    """A browser that is signed in as carol, who may change limits."""
    async with browsing(control) as browser:
        await browser.sign_in()
        yield browser


async def head(control: Control) -> tuple[int, str]:
    """The newest revision's number and text."""
    revision = (await control.current()).revision
    return revision.number, revision.text


# Signing in


async def test_the_session_is_a_strict_cookie_without_the_key(control: Control) -> None:
    """It is sent to this site alone, no script can read it, and after eight hours it is gone."""
    async with browsing(control) as browser:
        form = await browser.get("/admin/login")
        reply = await browser.post("/admin/login", data={"csrf": token(form), "key": WRITE})
        cookie = reply.headers["set-cookie"].lower()
        assert cookie.startswith("ratelimitd_session=")
        assert {"httponly", "samesite=strict", "max-age=28800"} <= set(cookie.split("; "))
        assert WRITE not in reply.headers["set-cookie"]
        assert (reply.status_code, reply.headers["location"]) == (303, "/admin")


async def test_signing_in_renews_the_session(control: Control) -> None:
    """A token that somebody planted before is worth nothing after."""
    async with browsing(control) as browser:
        before = token(await browser.get("/admin/login"))
        after = token(await browser.sign_in())
        assert before != after
        assert (await browser.post("/admin/logout", data={"csrf": before})).status_code == 403


async def test_a_wrong_key_opens_nothing_and_is_logged(control: Control) -> None:
    """The page says so beside the field."""
    async with browsing(control) as browser:
        with capture_logs() as logs:
            page = await browser.sign_in(key="nearly-the-right-key")
        assert page.status_code == 401
        assert "This key is not valid." in page.text
        assert 'aria-describedby="key-hint key-error" aria-invalid="true"' in page.text
        assert [line["event"] for line in logs] == ["admin_key_refused"]
        assert (await browser.get("/admin")).headers["location"].startswith("/admin/login")


async def test_too_many_wrong_keys_at_once_are_told_on_a_page(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the API answers 429 in JSON, the panel answers it in words."""
    monkeypatch.setattr(authentication, "MAX_DELAYED", 0)
    async with browsing(control) as browser:
        page = await browser.sign_in(key="nearly-the-right-key")
        assert (page.status_code, "Too many wrong keys" in page.text) == (429, True)


@pytest.mark.parametrize("name", ["External", "x" * (MAX_NAME + 1)])
async def test_a_name_that_would_mislead_is_refused(control: Control, name: str) -> None:
    """`external` is the author of what was written past the revisions."""
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
async def test_after_signing_in_one_is_where_one_wanted_to_go(
    control: Control, wanted: str, reached: str
) -> None:
    """But never on another site."""
    async with browsing(control) as browser:
        form = await browser.get("/admin/login", params={"next": wanted})
        reply = await browser.post("/admin/login", data={"csrf": token(form), "key": WRITE, "next": wanted})
        assert reply.headers["location"] == reached


async def test_a_link_from_another_site_keeps_the_session(control: Control) -> None:
    """Its request has no strict cookie, so the page reloads itself and sets none."""
    async with browsing(control) as browser:
        reply = await browser.get("/admin/history?all=1", headers={"Sec-Fetch-Site": "cross-site"})
        assert 'content="0; url=/admin/history?all=1"' in reply.text
        assert "set-cookie" not in reply.headers


async def test_a_key_that_is_taken_away_ends_its_sessions(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next request, though the cookie is as good as before."""
    monkeypatch.setattr(AdminKeys, "session_secret", lambda _: "of a test, the same for all keys")
    async with browsing(control) as browser:
        await browser.sign_in()
        assert (await browser.get("/admin")).status_code == 200
        cookies = browser.cookies
    async with browsing(control, AdminKeys(("another-key-of-a-test",), ())) as later:
        later.cookies = cookies
        assert (await later.get("/admin")).headers["location"] == "/admin/login?next=/admin"


async def test_signing_out_ends_the_session(browser: Browser) -> None:
    """And says so."""
    page = await browser.submit("/admin/logout", await browser.get("/admin"))
    assert "You are signed out." in page.text
    assert (await browser.get("/admin")).status_code == 303


# Who may do what


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("sent", [{}, {"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "ü"}])
async def test_a_form_of_another_site_does_nothing(
    browser: Browser, control: Control, path: str, sent: dict[str, str]
) -> None:
    """Without this session's token, or with another, it is 403, whatever it asks for."""
    before = await head(control)
    fields = {"text": limits_json(), "expected": "1", "user": "alice", "key": WRITE}
    page = await browser.post(path, data=fields | sent)
    assert (page.status_code, "This form has expired" in page.text) == (403, True)
    assert await head(control) == before
    assert (await browser.get("/admin")).status_code == 200


async def test_without_a_session_no_form_is_ours(control: Control) -> None:
    """An empty token is not that of a session that has none: nobody is signed in by another site."""
    async with browsing(control) as browser:
        for sent in ({}, {"csrf": ""}):
            page = await browser.post("/admin/login", data={"key": WRITE, **sent})
            assert (page.status_code, "set-cookie" in page.headers) == (403, False)


async def test_the_form_of_a_stranger_is_not_read(control: Control) -> None:
    """It may be as long as a policy, and strangers may be many."""
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
async def test_who_is_signed_out_changes_nothing(control: Control, path: str) -> None:
    """A form that comes after the session's end is 401 and says how to save what was written."""
    async with browsing(control) as browser:
        form = await browser.get("/admin/login")
        page = await browser.submit(path, form, text=limits_json(), expected="1", user="alice")
        assert (page.status_code, "You are signed out" in page.text) == (401, True)
    assert (await head(control))[0] == 1


async def test_a_key_for_looking_sees_all_and_changes_nothing(control: Control, store: Redis) -> None:
    """No page shows it a button that changes something, and what it posts is refused."""
    await control.apply(limits_json(), author="dave", note="", expected=1)
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
            )
        for path in ON_THE_WAY:
            assert (await browser.get(path)).status_code == 403
        page = await browser.get("/admin")
        for path in POSTS[2:]:
            reply = await browser.submit(path, page, text=limits_json(), expected="1", user="alice")
            assert (reply.status_code, "This key is read-only" in reply.text) == (403, True)
    assert (await head(control))[0] == 2
    assert await store.exists("rate:user:alice")


# Changing limits


async def test_limits_are_changed_with_a_form(browser: Browser, control: Control) -> None:
    """Numbers, then what they change, then the change; and the next page says so, once."""
    page = await browser.get("/admin")
    changes = await browser.submit(
        "/admin/limits", page, expected=expected(page), global_capacity="700", global_rate="50"
    )
    assert "<del>-   global: {capacity: 500, refill_rate: 50}</del>" in changes.text
    assert "<ins>+   global: {capacity: 700, refill_rate: 50}</ins>" in changes.text
    text = _hidden(changes, "text")
    after = await browser.submit(
        "/admin/apply", changes, expected=expected(changes), text=text, note="a campaign"
    )
    assert "Revision 2 is accepted. No replica is running." in after.text
    assert "is accepted" not in (await browser.get("/admin")).text
    newest = (await control.current()).revision
    assert (newest.number, newest.author, newest.note) == (2, "carol", "a campaign")


def _hidden(page: httpx.Response, name: str) -> str:
    parser = _Page()
    parser.feed(page.text)
    return parser.values[name]


def test_the_form_changes_its_numbers_and_nothing_else() -> None:
    """Routes, overrides, shadow and a tier that is off stay as they are."""
    changed = with_numbers(FULL, {"global_capacity": "700", "global_rate": "50", "user_rate": "300/min"})
    assert changed == normal(FULL.replace("500", "700"))


def test_a_rate_may_be_typed_with_its_unit() -> None:
    """The flat form knows tokens per second only, and stays flat."""
    assert with_numbers(FULL, {"user_rate": "90/min"}) == normal(FULL.replace("300/min", "90/min"))
    assert with_numbers(FULL, {"user_rate": "2.5"}) == normal(FULL.replace("300/min", "150/min"))
    assert parse(with_numbers(limits_json(), {"user_rate": "90/min"})) == parse(limits_json(user_rate=1.5))


def normal(text: str) -> str:
    """The one way to write what a text means."""
    return normal_text(parse(text))


@pytest.mark.parametrize(
    "text",
    [
        FULL,
        limits_json(user_rate=1 / 3, global_rate=0.000001, user_api_rate=123456.7891),
        "\ufeff" + limits_json(),
    ],
)
async def test_a_form_that_was_not_touched_changes_no_limit(
    browser: Browser, control: Control, text: str
) -> None:
    """Not even a number with many digits is rounded by going through a page."""
    await control.apply(text, author="alice", note="", expected=None)
    parser = _Page()
    parser.feed((await browser.get("/admin")).text)
    page = await browser.post("/admin/limits", data=parser.values)
    assert "The limits stay the same" in page.text or "No changes: this is the text" in page.text


@pytest.mark.parametrize("typed", ["", "ten", "1/fortnight", "-1", "null", "[1]", "1e400"])
@pytest.mark.parametrize("text", [FULL, limits_json()])
@pytest.mark.parametrize("field", ["global_capacity", "global_rate"])
def test_what_is_no_number_is_a_problem_of_its_field(text: str, field: str, typed: str) -> None:
    """And of no other."""
    with pytest.raises(PolicyError) as refused:
        with_numbers(text, {field: typed})
    assert {change_field(problem.path) for problem in refused.value.problems} == {field}


def change_field(path: str) -> str:
    """`tiers.global.refill_rate` and `global_rate` are one field of the form."""
    return path.removeprefix("tiers.").replace(".", "_").replace("refill_rate", "rate")


async def test_a_wrong_number_is_named_beside_its_field(browser: Browser, control: Control) -> None:
    """What was typed stays, a problem elsewhere is listed, and nothing is changed."""
    page = await browser.get("/admin")
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
    assert (await head(control))[0] == 1


async def test_a_text_that_is_no_policy_comes_back_with_its_problems(
    browser: Browser, control: Control
) -> None:
    """All of them at once, below the field; the text is kept and nothing is changed."""
    page = await browser.get("/admin/edit")
    text = FULL.replace("cost: 5", "cost: -1").replace("off", "on")
    for path in ("/admin/edit", "/admin/apply"):
        wrong = await browser.submit(path, page, expected=expected(page), text=text)
        assert wrong.status_code == 422
        assert "<code>routes[0].cost</code> must be 0 or more, got -1" in wrong.text
        assert "<code>tiers.user_api</code>" in wrong.text
        assert 'aria-describedby="problems" aria-invalid="true"' in wrong.text
        assert "cost: -1" in wrong.text
    assert (await head(control))[0] == 1


async def test_a_text_is_checked_while_one_types(browser: Browser) -> None:
    """The answer is a part of a page; the token comes in a header."""
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
    """Browsers send CR LF; the revision has what was shown."""
    page = await browser.get("/admin/edit")
    text = FULL.replace("500", "501")
    await browser.submit("/admin/apply", page, expected="1", text=text.replace("\n", "\r\n"))
    assert await head(control) == (2, text)


async def test_the_longest_text_fits_through_the_form(browser: Browser, control: Control) -> None:
    """However much of it a browser has to encode."""
    page = await browser.get("/admin/edit")
    text = FULL + "#{[\n" * ((MAX_BYTES - len(FULL)) // 4)
    await browser.submit("/admin/apply", page, expected="1", text=text.replace("\n", "\r\n"))
    assert await head(control) == (2, text)


async def test_edit_the_text_goes_back_with_it(browser: Browser) -> None:
    """From what changes to the editor, with text and note."""
    page = await browser.get("/admin/edit")
    again = await browser.submit(
        "/admin/edit", page, expected="1", text=FULL + "# mine", note="why", again="1"
    )
    assert again.status_code == 200
    assert "# mine</textarea>" in again.text
    assert _hidden(again, "note") == "why"


async def test_who_was_slower_keeps_the_text_and_learns_of_the_other(
    browser: Browser, control: Control
) -> None:
    """It sees both changes, when comparing and when applying; then it can be compared again and applied."""
    page = await browser.get("/admin/edit")
    mine = FULL.replace("100, rate", "120, rate")
    theirs = FULL.replace("500", "900")
    await control.apply(theirs, author="dave", note="mine is faster", expected=1)
    for path in ("/admin/edit", "/admin/apply"):
        conflict = await browser.submit(path, page, expected=expected(page), text=mine, note="why")
        assert conflict.status_code == 409
        assert "by <strong>dave</strong>" in conflict.text
        assert "UTC" in conflict.text
        assert "<q>mine is faster</q>" in conflict.text
        assert "<ins>+   global: {capacity: 900, refill_rate: 50}</ins>" in conflict.text
        assert "<ins>+   user: {capacity: 120, refill_rate: 5, shadow: true}</ins>" in conflict.text
        assert _hidden(conflict, "text") == mine
        assert await head(control) == (2, theirs)
    changes = await browser.submit(
        "/admin/edit", conflict, expected=expected(conflict), text=mine, note="why"
    )
    assert "<del>-   global: {capacity: 900, refill_rate: 50}</del>" in changes.text
    assert _hidden(changes, "note") == "why"
    await browser.submit("/admin/apply", changes, expected=expected(changes), text=mine)
    assert await head(control) == (3, mine)


async def test_a_conflict_keeps_the_text_when_no_difference_can_be_told(
    browser: Browser, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as from a revision that another version of ratelimitd wrote."""

    async def unreadable(*_: object) -> str:
        raise PolicyError(Problem("tiers", "is unknown here"))

    page = await browser.get("/admin/edit")
    await control.apply(limits_json(), author="dave", note="", expected=1)
    monkeypatch.setattr(Control, "diff", unreadable)
    conflict = await browser.submit("/admin/edit", page, expected="1", text=FULL)
    assert (conflict.status_code, _hidden(conflict, "text")) == (409, FULL)


async def test_a_change_that_not_every_replica_runs_says_so(control: Control, store: Redis) -> None:
    """It leads to the page that shows which one is behind."""
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


async def test_a_refused_text_in_the_store_is_shouted_about(browser: Browser, store: Redis) -> None:
    """On the pages where one looks for the limits; what is shown is still the policy in force."""
    await store.set(KEY, limits_json(**{"<b>": 1}))
    for path in ("/admin", "/admin/edit", "/admin/replicas"):
        page = await browser.get(path)
        assert "The policy text in the store is not valid" in page.text
        assert "<code>&lt;b&gt;</code>" in page.text
    assert 'value="500"' in (await browser.get("/admin")).text


async def test_what_every_replica_refuses_is_told_once(
    browser: Browser, store: Redis, control: Control
) -> None:
    """At the head of the page; a replica's row says that it is one of them."""
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


async def test_a_key_for_looking_is_not_told_to_apply(control: Control, store: Redis) -> None:
    """What it reads is what it can do; units are those of the numbers that it sees."""
    await store.set(KEY, "{")
    async with browsing(control) as browser:
        await browser.sign_in(key=READ)
        pages = [await browser.get(path) for path in ("/admin", "/admin/edit", "/admin/replicas")]
    assert all("The policy text in the store is not valid" in page.text for page in pages)
    assert not [
        page for page in pages if "Apply a policy here" in page.text or "You are editing" in page.text
    ]
    assert "100/min" not in pages[0].text
    assert "Revision 1 is in force." in pages[1].text


# History


async def test_a_rollback_is_shown_confirmed_and_a_new_revision(browser: Browser, control: Control) -> None:
    """The history says who went back, and to what."""
    await control.apply(limits_json(), author="dave", note="", expected=1)
    history = await browser.get("/admin/history")
    assert 'href="/admin/history/1/rollback"' in history.text
    assert 'href="/admin/history/2/rollback"' not in history.text
    question = await browser.get("/admin/history/1/rollback")
    assert "<ins>+ routes:</ins>" in question.text
    after = await browser.submit("/admin/history/1/rollback", question, expected=expected(question))
    assert "Revision 3 is accepted." in after.text
    assert await head(control) == (3, FULL)
    history = await browser.get("/admin/history")
    assert "rollback to 1" in history.text
    assert (await control.current()).revision.author == "carol"


async def test_a_rollback_that_came_second_asks_again(browser: Browser, control: Control) -> None:
    """It shows what it would change now."""
    await control.apply(limits_json(), author="dave", note="", expected=1)
    question = await browser.get("/admin/history/1/rollback")
    await control.apply(limits_json(user_rate=9), author="erin", note="", expected=2)
    conflict = await browser.submit("/admin/history/1/rollback", question, expected=expected(question))
    assert conflict.status_code == 409
    assert "by <strong>erin</strong>" in conflict.text
    assert expected(conflict) == "3"
    assert (await head(control))[0] == 3


async def test_a_revision_shows_its_text_and_what_it_changed(browser: Browser, control: Control) -> None:
    """And can be taken as the beginning of a new text."""
    await control.apply(FULL.replace("500", "501"), author="dave", note="", expected=1)
    page = await browser.get("/admin/history/2")
    assert "<ins>+   global: {capacity: 501, refill_rate: 50}</ins>" in page.text
    assert "in force" in page.text
    page = await browser.get("/admin/edit?from=1")
    assert FULL.strip() in page.text
    assert expected(page) == "2"


@pytest.mark.parametrize(
    "path", ["/admin/history/99", "/admin/history/x", "/admin/history/99/rollback", "/admin/edit?from=-1"]
)
async def test_a_revision_that_is_not_kept_is_a_page_that_says_so(browser: Browser, path: str) -> None:
    """With 404."""
    page = await browser.get(path)
    assert (page.status_code, "Revision not found" in page.text) == (404, True)


# Looking


async def test_a_request_is_explained_and_spends_nothing(browser: Browser, store: Redis) -> None:
    """A sentence, and each tier with its tokens."""
    query = {"path": "/api/orders?x=1", "method": "post", "user": "alice", "headers": "a: 1\r\n\r\nb: 2"}
    page = await browser.get("/admin/explain", params=query)
    assert "Because every tier can pay 5." in page.text
    assert "100 such requests at once" in page.text
    assert "overrides.users.alice" in page.text
    assert "1000, refill 100/s" in page.text
    assert await store.keys("rate:*") == []


async def test_a_denied_request_is_explained_with_its_wait(browser: Browser, store: Redis) -> None:
    """When it changes."""
    seconds, micros = await store.time()
    await store.hset(
        "rate:global", mapping={"tokens": "0", "last": str(seconds * 1_000_000 + micros + 10**9)}
    )
    page = await browser.get("/admin/explain", params={"path": "/api/orders", "address": "203.0.113.9"})
    assert '<span class="badge bad">denied</span>' in page.text
    assert "Because global holds 0.000 tokens" in page.text
    assert "It would be allowed in 0.1 s" in page.text


@pytest.mark.parametrize(
    "query",
    ["path=api", "path=/&headers=nothing", "path=/&context=a", "path=/&address=here", "path=/&headers=:+1"],
)
async def test_a_question_that_cannot_be_asked_says_why(browser: Browser, query: str) -> None:
    """At the head of the form, which it describes, for it may be about any field; what was typed stays."""
    page = await browser.get(f"/admin/explain?{query}")
    assert page.status_code == 422
    assert re.search(
        r'<form[^>]*aria-describedby="error">\s*<p class="error" id="error" role="alert">', page.text
    )


async def test_a_user_is_looked_up_and_reset(browser: Browser, store: Redis) -> None:
    """After being asked whether it is meant; nobody else is touched."""
    seconds, micros = await store.time()
    for key in ("rate:user:alice", "rate:user:alice:api:/api/orders", "rate:user:bob"):
        await store.hset(key, mapping={"tokens": "7.5", "last": str(seconds * 1_000_000 + micros + 10**9)})
    page = await browser.get("/admin/buckets?user=alice")
    assert page.text.count("7.5") == 2
    question = await browser.get("/admin/buckets/reset?user=alice&address=")
    assert "Reset 2 buckets" in question.text
    after = await browser.submit("/admin/buckets/reset", question, user="alice", address="")
    assert "Filled 2 buckets of alice." in after.text
    assert await store.keys("rate:*") == [b"rate:user:bob"]
    assert "All buckets are full" in (await browser.get("/admin/buckets?user=alice")).text
    nothing = await browser.get("/admin/buckets/reset?user=alice")
    assert "there is nothing to reset" in nothing.text
    assert 'action="/admin/buckets/reset"' not in nothing.text


@pytest.mark.parametrize("query", ["user=a&address=203.0.113.9", "user=a,b", "address=here"])
async def test_whom_nobody_can_be_is_said(browser: Browser, query: str) -> None:
    """Looking up and resetting alike."""
    page = await browser.get(f"/admin/buckets?{query}")
    assert (page.status_code, 'id="error"' in page.text) == (422, True)
    assert (await browser.get(f"/admin/buckets/reset?{query}")).status_code == 422


# Every page


class _Page(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.values: dict[str, str] = {}
        self._area: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes it, and the value of a field."""
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "input" and found.get("name"):
            self.values[found["name"] or ""] = found.get("value") or ""
        if tag == "textarea":
            self._area = found["name"]

    def handle_data(self, data: str) -> None:
        """Notes what stands in a field, without the line end that begins it."""
        if self._area is not None:
            self.values[self._area] = data.removeprefix("\n")

    def handle_endtag(self, tag: str) -> None:
        """A field has ended."""
        if tag == "textarea":
            self._area = None

    def all(self, attribute: str) -> list[str]:
        """Every value of an attribute."""
        return [value for _, found in self.tags if (value := found.get(attribute))]


@pytest.mark.parametrize("path", [*PAGES, *ON_THE_WAY, "/admin/history/99", "/admin/explain?path=x"])
async def test_a_page_can_be_used_by_everybody(browser: Browser, store: Redis, path: str) -> None:
    """Its language and title, one main heading, no level left out, a label for each field, no id twice."""
    await store.hset("rate:user:alice", mapping={"tokens": "7.5", "last": "1"})
    page = await browser.get(path)
    parser = _Page()
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


@pytest.mark.parametrize("path", [*PAGES, *ON_THE_WAY, "/admin/history/99"])
async def test_a_page_has_no_code_in_it(browser: Browser, path: str) -> None:
    """So the browser may be told to run none: no script, style or handler stands in a page."""
    parser = _Page()
    parser.feed((await browser.get(path)).text)
    for tag, found in parser.tags:
        assert tag != "style"
        assert tag != "script" or (found.get("src") or "").startswith("/admin/static/")
        assert not [name for name in found if name == "style" or name.startswith("on")]


async def test_what_people_wrote_is_text_and_never_markup(control: Control, store: Redis) -> None:
    """Author, note, policy, user and address, wherever they are shown."""
    evil = "<script>alert(1)</script>"
    text = FULL.replace("# why it is so", f"# </textarea></pre>{evil}").replace("alice", f'"{evil}"')
    await control.apply(text, author=evil, note=evil, expected=1)
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
async def test_a_mistyped_address_is_a_page_that_says_so(browser: Browser, path: str) -> None:
    """So is that of a form, which a browser asks for when somebody presses Enter in its address."""
    page = await browser.get(path)
    assert (page.status_code, "Page not found" in page.text) == (404, True)


@pytest.mark.parametrize("typed", ["/", "/admin/"])
async def test_the_port_alone_and_a_slash_at_the_end_find_the_panel(browser: Browser, typed: str) -> None:
    """People type them, and proxies add a slash."""
    page = await browser.get(typed, follow_redirects=True)
    assert (page.status_code, page.url.path, "<h1>Limits" in page.text) == (200, "/admin", True)


@pytest.mark.parametrize("name", ["panel.css", "panel.js", "icon.svg"])
async def test_what_pages_need_is_open_to_everybody(control: Control, name: str) -> None:
    """The page for signing in is to look right, too."""
    async with browsing(control) as browser:
        assert f"/admin/static/{name}?" in (await browser.get("/admin/login")).text
        assert (await browser.get(f"/admin/static/{name}")).status_code == 200


async def test_a_session_fits_in_a_cookie(browser: Browser) -> None:
    """With the longest name and sentence, in the script that takes the most room."""
    await browser.submit("/admin/logout", await browser.get("/admin"))
    await browser.sign_in(name="\U00010400" * MAX_NAME)
    page = await browser.get("/admin")
    reply = await browser.post("/admin/buckets/reset", data={"csrf": token(page), "user": "\U00010400" * 300})
    assert reply.status_code == 303
    assert len(reply.headers["set-cookie"].partition(";")[0]) < 4096


async def test_a_store_that_is_away_is_a_page() -> None:
    """503 and a sentence, without a traceback; signing in needs no store."""
    async with (
        open_client(f"redis://{LOOPBACK}:{free_port()}/0") as client,
        browsing(Control(client, SETTINGS)) as browser,
    ):
        page = await browser.sign_in()
        form = await browser.get("/admin/explain")
        for reply in (
            page,
            *[await browser.get(path) for path in (*PAGES, *ON_THE_WAY)],
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


async def test_a_store_that_hangs_is_a_page_too() -> None:
    """After a while, and with the text that was sent."""

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


def test_tokens_are_never_rounded_up() -> None:
    """Nobody reads of a token that cannot be spent."""
    held = {0: "0", 999_999: "0.999", 1_000_000: "1", 7_500_000: "7.5", 10**15: "1000000000"}
    assert {micro: tokens(micro) for micro in held} == held


def test_waits_and_instants_are_written_for_people() -> None:
    """In their two greatest units, rounded up; an instant that no calendar has is unknown."""
    waits = {
        0: "0 s",
        1_500_000: "1.5 s",
        59_999_000: "59.999 s",
        59_999_001: "1 min",
        60_000_001: "1 min 1 s",
        3_600_000_000: "1 h",
    }
    assert {us: duration(us) for us in waits} == waits
    assert duration(1_000_000 * 10**6) == "11 d 13 h"
    assert duration(1) == "0.001 s"
    assert utc_time(0) == "1970-01-01 00:00:00 UTC"
    assert utc_time(10**30) == "unknown"
