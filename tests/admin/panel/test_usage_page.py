"""The page Usage: what it shows, in every state of the system, and its parts that a script refreshes."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from typing import Any

import pytest
from redis.asyncio import Redis

from ratelimitd.admin.panel.charts import NOTHING
from ratelimitd.control.usage_answers import ApiUsage, RevisionMark
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.usage.ranges import UsageRange
from tests.admin.conftest import run_replica
from tests.admin.panel.browser import READ, Browser, ParsedPage, browsing
from tests.admin.panel.made_usage import (
    STEPS,
    ControlOfUsage,
    lively,
    many_apis,
    start_us,
    steps_of,
    usage_of,
)
from tests.example_limits import KEY
from tests.replicas import replica

MINUTES = UsageRange.QUARTER_HOUR
CHARTS = {"decisions", "tiers", "bucket", "store", "replicas"}
EVIL = "</script><svg onload=alert(1)>\"'\u202edlrow\x07\n" + "x" * 10_000
_SPACES = re.compile(r"[ \n]+")
KNOWN: dict[str, Any] = {"global_tokens": 5 * MICRO, "global_capacity": 10, "replicas": 1}


@pytest.fixture
def made(store: Redis) -> ControlOfUsage:
    """A control with made-up usage."""
    return ControlOfUsage(store)


@pytest.fixture
async def viewer(made: ControlOfUsage) -> AsyncIterator[Browser]:
    """A browser that is signed in with a read-only key."""
    async with browsing(made) as browser:
        await browser.sign_in(READ)
        yield browser


class Texts(HTMLParser):
    """The text of each element of a page that has an id, without line ends."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._open, self._found = list[str | None](), dict[str, str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "link", "input"}:
            self._open.append(dict(attrs).get("id"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element of SVG that is closed at once has no text."""

    def handle_endtag(self, _tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for one in self._open:
            if one is not None:
                self._found[one] = self._found.get(one, "") + data

    def __getitem__(self, wanted: str) -> str:
        return _SPACES.sub(" ", self._found[wanted]).strip()


async def test_the_figures_are_the_newest_ones_and_the_totals(viewer: Browser, made: ControlOfUsage) -> None:
    newest = STEPS[MINUTES][0] - 2
    steps = steps_of(
        MINUTES,
        {
            newest: {
                "allowed": 1250,
                "denied": 20,
                "denied_by": dict.fromkeys(TierName, 0) | {TierName.USER: 20},
            },
            newest + 1: {"allowed": 3, "replicas": 0, "global_tokens": None},
        },
        **KNOWN,
    )
    made.made = usage_of(MINUTES, steps)
    page = Texts((await viewer.get("/admin")).text)
    assert page["tile-1"] == "Allowed 125/s 1,253 in total, 98\N{NO-BREAK SPACE}%"
    assert page["tile-2"] == "Denied 2/s 20 in total, 1.6\N{NO-BREAK SPACE}%"
    assert page["tile-3"] == "Undecided 0/s 0 in total, 0\N{NO-BREAK SPACE}%"
    assert page["tile-4"] == "Global bucket 5 tokens of 10"
    assert page["decisions-about"].startswith("allowed: latest 125/s, highest 125/s, 1,253 in total. denied:")
    assert "user: latest 2/s, highest 2/s, 20 in total." in page["tiers-about"]
    assert page["bucket-about"] == "tokens: latest 5, highest 5. capacity: latest 10, highest 10."


async def test_decisions_from_memory_have_a_tile_if_there_were_any(
    viewer: Browser, made: ControlOfUsage
) -> None:
    newest = STEPS[MINUTES][0] - 2
    steps = steps_of(MINUTES, {newest: {"allowed": 80, "degraded": 20}}, **KNOWN)
    made.made = usage_of(MINUTES, steps)
    page = Texts((await viewer.get("/admin")).text)
    assert page["tile-6"] == "Degraded 2/s 20 in total, 25\N{NO-BREAK SPACE}%, decided without the store"
    made.made = usage_of(MINUTES, steps_of(MINUTES, **KNOWN))
    assert 'id="tile-6"' not in (await viewer.get("/admin")).text


async def test_a_long_step_counts_before_it_is_over(viewer: Browser, made: ControlOfUsage) -> None:
    """A step of half an hour would hide what happens now. One that has just begun says too little."""
    count, _ = STEPS[UsageRange.WEEK]
    steps = steps_of(UsageRange.WEEK, {count - 1: {"allowed": 6000}}, replicas=1)
    begun_us = steps[-1].at_us
    made.made = usage_of(UsageRange.WEEK, steps, at_us=begun_us + 600 * MICRO)
    assert "allowed 10/s" in Texts((await viewer.get("/admin?range=7d")).text)["decisions-legend"]
    made.made = usage_of(UsageRange.WEEK, steps, at_us=begun_us + 59 * MICRO)
    assert "allowed 0/s" in Texts((await viewer.get("/admin?range=7d")).text)["decisions-legend"]


async def test_each_chart_has_a_name_a_description_and_a_table(viewer: Browser) -> None:
    page = await viewer.get("/admin")
    parser = ParsedPage()
    parser.feed(page.text)
    images = [found for _, found in parser.tags if found.get("role") == "img"]
    assert {(one["aria-labelledby"], one["aria-describedby"]) for one in images} == {
        (f"{chart}-title", f"{chart}-about") for chart in CHARTS
    }
    texts = Texts(page.text)
    assert texts["bucket-title"] == "Tokens in the global bucket"
    assert texts["store-about"].startswith("p50: latest 4")
    for chart in CHARTS:
        rows = re.findall(rf'<table id="{chart}-data".*?</table>', page.text, re.DOTALL)[0].count("<tr>") - 1
        assert 30 < rows <= 60
    assert page.text.count("<details>") == len(CHARTS)


@pytest.mark.parametrize("over", UsageRange)
async def test_the_range_is_in_the_url_and_marked(
    viewer: Browser, made: ControlOfUsage, over: UsageRange
) -> None:
    page = await viewer.get(f"/admin?range={over}")
    links = re.findall(r'href="/admin\?range=(\w+)"( aria-current="true")?>', page.text)
    assert links == [(one, ' aria-current="true"' if one == over else "") for one in UsageRange]
    assert f'data-live="/admin/usage?range={over}"' in page.text
    assert made.asked == [MINUTES, over]  # the first is the page after signing in


@pytest.mark.parametrize("path", ["/admin", "/admin/usage"])
async def test_an_unknown_range_is_a_sentence(viewer: Browser, path: str) -> None:
    page = await viewer.get(f"{path}?range=<2h>")
    assert page.status_code == 422
    assert "The range must be 15m, 1h, 24h or 7d, got &#39;&lt;2h&gt;&#39;." in page.text
    assert 'href="/admin">Back to the first page' in page.text


async def test_no_usage_yet_says_what_to_do(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(MINUTES, steps_of(MINUTES), store_p50_s=None, store_p99_s=None)
    page = await viewer.get("/admin")
    texts = Texts(page.text)
    assert "ratelimitd demo --traffic" in page.text
    assert texts["no-requests"] == "No requests in the last 15 minutes"
    assert texts["attention"].startswith("No replica has reported in the last minute.")
    for chart in CHARTS - {"store"}:
        assert texts[f"{chart}-plot"] == "No replica reported in this range."
    assert texts["store-plot"] == "No calls in this range."
    assert texts["apis"] == "No request to an API in the last 15 minutes."
    assert texts["changes"] == "The policy did not change in the last 15 minutes."


async def test_counts_without_a_report_are_shown(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(MINUTES, steps_of(MINUTES, {9: {"allowed": 50}}))
    page = Texts((await viewer.get("/admin")).text)
    assert page["decisions-about"].startswith("allowed: no recent data, highest 5/s, 50 in total.")


async def test_a_row_of_the_table_shows_the_slowest_calls_and_the_last_tokens(
    viewer: Browser, made: ControlOfUsage
) -> None:
    values: dict[int, dict[str, Any]] = {
        1: {"store_p99_s": 1.0},
        5: {"global_tokens": 3 * MICRO},
    }  # a row covers six steps
    made.made = usage_of(UsageRange.HOUR, steps_of(UsageRange.HOUR, values, store_p99_s=0.001, **KNOWN))
    page = Texts((await viewer.get("/admin?range=1h")).text)
    assert page["store-data"].endswith(f"{NOTHING}1 s")
    assert page["bucket-data"].endswith("310")


async def test_zeros_are_drawn_as_zeros(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(MINUTES, steps_of(MINUTES, **KNOWN))
    page = await viewer.get("/admin")
    texts = Texts(page.text)
    assert texts["decisions-legend"] == "allowed 0/s denied 0/s undecided 0/s"
    assert texts["no-requests"]


async def test_a_bucket_that_is_off_says_so(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(MINUTES, steps_of(MINUTES, replicas=2, allowed=10))
    texts = Texts((await viewer.get("/admin")).text)
    assert texts["bucket-plot"] == "The policy has no tier global."
    assert texts["tile-4"] == "Global bucket off the policy has no tier global"


async def test_a_gap_without_replicas_stays_open(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(
        MINUTES, steps_of(MINUTES, {at: {"replicas": 0} for at in range(30, 40)}, replicas=1)
    )
    page = await viewer.get("/admin")
    stroke = re.findall(r'class="line one" d="([^"]+)"/>\n', page.text)
    assert [line.count("M") for line in stroke] == [2, 2, 1]  # decisions, tiers; replicas are counted as 0
    assert "replicas: latest 1, highest 1." in page.text


async def test_replicas_are_counted_once_all_have_had_time_to_report(
    viewer: Browser, made: ControlOfUsage
) -> None:
    count, _ = STEPS[MINUTES]
    begun = {"complete": False, "replicas": 1}
    made.made = usage_of(MINUTES, steps_of(MINUTES, {count - 2: begun, count - 1: begun}, replicas=3))
    assert Texts((await viewer.get("/admin")).text)["replicas-legend"] == "replicas 3"
    count, _ = STEPS[UsageRange.WEEK]
    steps = steps_of(UsageRange.WEEK, {count - 1: begun}, replicas=3)
    for age_s, shown in ((59, "replicas 3"), (60, "replicas 1")):
        made.made = usage_of(UsageRange.WEEK, steps, at_us=steps[-1].at_us + age_s * MICRO)
        assert Texts((await viewer.get("/admin?range=7d")).text)["replicas-legend"] == shown


@pytest.mark.parametrize(("silent", "shown"), [(2, ("9/s", "5", "2 ms")), (3, (NOTHING, NOTHING, NOTHING))])
async def test_old_values_do_not_stand_for_now(
    viewer: Browser, made: ControlOfUsage, silent: int, shown: tuple[str, str, str]
) -> None:
    count, _ = STEPS[MINUTES]
    nothing = {"replicas": 0, "allowed": 0, "store_p99_s": None, "global_tokens": None}
    gone = dict.fromkeys(range(count - silent, count), nothing)
    made.made = usage_of(MINUTES, steps_of(MINUTES, gone, allowed=90, store_p99_s=0.002, **KNOWN))
    page = Texts((await viewer.get("/admin")).text)
    rate, tokens, p99 = shown
    assert page["tile-1"].startswith(f"Allowed {rate} ")
    assert page["decisions-legend"].startswith(f"allowed {rate} ")
    assert page["tile-4"].startswith(f"Global bucket {tokens} ")
    assert page["tile-5"] == f"Store, p99 {p99} 2 ms in the range"
    latest = "no recent data" if p99 == NOTHING else f"latest {p99}"
    assert page["store-about"] == f"p50: no data. p99: {latest}, highest 2 ms."


@pytest.mark.parametrize(
    ("over", "labels", "newest"),
    [
        (UsageRange.QUARTER_HOUR, "00:42 00:45 00:48 00:51", "00:53:10"),
        (UsageRange.HOUR, "00:00 00:10 00:20 00:30 00:40", "00:52:30"),
        (UsageRange.DAY, "04:00 08:00 12:00 16:00 20:00", "30 Nov 00:40"),
        (UsageRange.WEEK, "24 Nov 25 Nov 26 Nov 27 Nov 28 Nov 29 Nov", "29 Nov 22:00"),
    ],
)
async def test_times_fit_the_range(viewer: Browser, over: UsageRange, labels: str, newest: str) -> None:
    page = await viewer.get(f"/admin?range={over}")
    plot = page.text.partition('id="tiers-plot"')[0]
    assert " ".join(re.findall(r'<text class="time[^>]*>([^<]+)<', plot)) == labels
    assert f"<title>{newest} UTC\nallowed: " in plot
    assert f">{newest}</th>" in plot.partition("<tbody>")[2].partition("</tr>")[0]


async def test_lines_bars_and_marks_are_drawn_in_their_places(viewer: Browser, made: ControlOfUsage) -> None:
    apis = [ApiUsage(api="one", allowed=60, denied=40, per_step=[1, 2])]
    marks = [RevisionMark(number=7, at_us=start_us(MINUTES, 45), author="alice", note="why")]
    made.made = usage_of(MINUTES, steps_of(MINUTES, replicas=1, undecided=1), apis=apis, revisions=marks)
    page = (await viewer.get("/admin")).text
    assert '<rect class="one" width="60.00%" height="100%"/>' in page
    assert '<rect class="two" x="60.00%" width="40.00%" height="100%"/>' in page
    assert 'd="M25.00 100L25.00 50.0L75.00 0.0L75.00 100Z"' in page
    assert page.count('<line class="mark" x1="50.00%" x2="50.00%"') == len(CHARTS - {"store", "bucket"})
    assert "<title>Revision 7 by \u2068alice\u2069" in page
    looks = re.findall(r'class="line (\w+)" d="M0\.56', page.partition('id="tiers-plot"')[0])
    assert looks == ["one", "two", "three"]
    assert '<div class="card bad" id="tile-3"' in page
    made.made = None
    assert 'class="card bad"' not in (await viewer.get("/admin")).text


async def test_exempt_and_blocked_requests_have_lines_when_there_are_any(
    viewer: Browser, made: ControlOfUsage
) -> None:
    assert "exempt" not in Texts((await viewer.get("/admin")).text)["decisions-legend"]
    made.made = usage_of(MINUTES, steps_of(MINUTES, {3: {"exempt": 1}, 4: {"blocked": 1}}, replicas=1))
    legend = Texts((await viewer.get("/admin")).text)["decisions-legend"]
    assert legend == "allowed 0/s denied 0/s undecided 0/s exempt 0/s blocked 0/s"


async def test_many_apis_are_eight_and_the_others(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = usage_of(MINUTES, steps_of(MINUTES, replicas=1, allowed=9), apis=many_apis(200))
    apis = Texts((await viewer.get("/admin")).text)["apis"]
    assert "/api/7 1,000 7 0.7" in apis
    assert "/api/8" not in apis
    assert "192 others 192,000 19,872 10\N{NO-BREAK SPACE}%" in apis
    made.made = usage_of(MINUTES, steps_of(MINUTES, replicas=1), apis=many_apis(9))
    apis = Texts((await viewer.get("/admin")).text)["apis"]
    assert "/api/8 1,000" in apis
    assert "others" not in apis


async def test_changes_of_the_policy_are_marked_and_listed(viewer: Browser, made: ControlOfUsage) -> None:
    revisions = [
        RevisionMark(number=at, at_us=start_us(MINUTES, at * 5), author="alice", note="" if at % 2 else "why")
        for at in range(1, 13)
    ]
    made.made = usage_of(MINUTES, steps_of(MINUTES, replicas=1), revisions=revisions)
    page = await viewer.get("/admin")
    assert page.text.count('<line class="mark"') == 12 * len(CHARTS - {"store", "bucket"})
    assert "Revision 2 by \u2068alice\u2069, 2026-11-30 " in page.text
    listed = Texts(page.text)["changes"]
    assert listed.startswith("Revision 12 by alice, 2026-11-30 ")
    assert "Revision 3 by" in listed
    assert "Revision 2 by" not in listed
    assert "2 more in this range" in listed


async def test_hostile_names_are_escaped_isolated_and_cut(viewer: Browser, made: ControlOfUsage) -> None:
    made.made = lively(MINUTES).model_copy(
        update={
            "apis": [ApiUsage(api=EVIL, allowed=1, denied=1, per_step=[1])],
            "revisions": [RevisionMark(number=5, at_us=start_us(MINUTES, 9), author=EVIL, note=EVIL)],
            "warnings": [f"keys were not read: {EVIL[:40]}"],
        }
    )
    for path in ("/admin", "/admin/usage"):
        page = await viewer.get(path)
        assert "<svg onload" not in page.text
        assert page.text.count("</script>") == (2 if path == "/admin" else 0)
        assert "\x07" not in page.text
        assert len(page.text) < 200_000
    assert "\u202e" not in Texts(page.text)["apis"]
    shown = Texts(page.text)["apis"]
    assert shown.count("x") < 80
    assert "\\u202edlrow\\u0007\\n" in shown
    assert re.search(r'<bdi title="\u2068&lt;/script&gt;', page.text)
    assert len(re.findall(r"<bdi title", page.text)) == 3


async def test_what_needs_attention_is_on_the_page_and_in_its_parts(
    viewer: Browser, made: ControlOfUsage, store: Redis
) -> None:
    await run_replica(store, "r1", 0)
    await store.set(KEY, "{")
    warned = lively(MINUTES).model_copy(update={"warnings": ["some counts are missing"]})
    made.made = warned
    for path in ("/admin", "/admin/usage"):
        attention = Texts((await viewer.get(path)).text)
        assert attention["refused"] == "The policy text in the store is not valid"
        assert "Some counts are missing." in attention["attention"]
    seconds, _ = await store.time()
    silent = replica("r1", seen_us=(seconds - 20) * MICRO)
    await store.hset(f"{{{KEY}}}:replicas", "r1", silent.model_dump_json(by_alias=True))
    assert (
        "1 replica is silent: not seen for 5 seconds."
        in Texts((await viewer.get("/admin")).text)["attention"]
    )


async def test_the_parts_need_a_session_and_set_no_cookie(made: ControlOfUsage) -> None:
    """A cookie that arrives after signing out would sign the visitor in again."""
    async with browsing(made) as browser:
        signed_out = await browser.get("/admin/usage")
        assert (signed_out.status_code, signed_out.headers["location"]) == (
            303,
            "/admin/login?next=/admin/usage",
        )
        await browser.sign_in(READ)
        parts = await browser.get("/admin/usage?range=1h")
        page = await browser.get("/admin?range=1h")
        assert (parts.status_code, "set-cookie" in parts.headers) == (200, False)
        assert parts.headers["cache-control"] == "no-store"
        assert parts.headers["content-security-policy"] == page.headers["content-security-policy"]
        assert ids_of_parts(parts.text) == ids_of_parts(page.text)
        assert len(ids_of_parts(parts.text)) > 20


async def test_the_parts_leave_a_message_to_the_next_page(made: ControlOfUsage) -> None:
    async with browsing(made) as browser:
        page = await browser.sign_in()
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        assert found is not None
        await browser.post("/admin/buckets/reset", data={"csrf": found[1], "user": "alice"})
        assert "Filled 0 buckets" not in (await browser.get("/admin/usage")).text
        assert "Filled 0 buckets of alice." in (await browser.get("/admin")).text


def ids_of_parts(html: str) -> list[str]:
    """Returns the ids of the parts that the script replaces."""
    return re.findall(r'id="([^"]+)" data-part', html)
