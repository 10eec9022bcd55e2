"""Reads series that were written by hand, field by field as `usage/layout.py` describes them."""

from itertools import pairwise

import pytest
from redis.asyncio import Redis

from ratelimitd.control.control import Control
from ratelimitd.core.tiers import TierName
from ratelimitd.settings import load
from ratelimitd.usage import layout
from ratelimitd.usage.layout import APIS_COARSE, APIS_FINE, COARSE, FINE, Level, api_id
from ratelimitd.usage.ranges import RESOLUTIONS, UsageRange
from ratelimitd.usage.series import SeriesReader
from tests.example_limits import KEY, limits_json
from tests.usage.examples import NOW_S


@pytest.fixture
def control(store: Redis) -> Control:
    """The control over an empty store."""
    return Control(store, load({}, {}))


async def now_s(store: Redis) -> int:
    """Returns the time of the store in seconds."""
    return int((await store.time())[0])


async def write(store: Redis, level: Level, at_s: int, **fields: int | str) -> None:
    """Writes fields of the bucket at an instant."""
    offset = layout.OFFSETS[at_s % level.key_s // level.bucket_s]
    mapping = {f"{offset}{code}": value for code, value in fields.items()}
    await store.hset(level.key(KEY, at_s), mapping=mapping)  # type: ignore[arg-type] # values may be numbers


async def write_api(store: Redis, level: Level, at_s: int, api: str, *, allowed: int, denied: int) -> None:
    """Writes the counts of an API."""
    await store.hset(level.key(KEY, at_s), mapping={f"{api_id(api)}a": allowed, f"{api_id(api)}d": denied})
    await store.hset(layout.names_key(KEY, at_s), api_id(api), layout.stored_name(api))


@pytest.mark.parametrize("over", list(UsageRange))
async def test_a_range_without_counts_has_all_its_steps(control: Control, over: UsageRange) -> None:
    usage = await control.usage(over)
    assert len(usage.steps) * usage.step_s == over.seconds
    assert len(usage.steps) <= 360
    starts = [step.at_us for step in usage.steps]
    assert {after - before for before, after in pairwise(starts)} == {usage.step_s * 1_000_000}
    assert starts[0] % (usage.step_s * 1_000_000) == 0
    assert starts[-1] <= usage.at_us < starts[-1] + usage.step_s * 1_000_000
    assert not usage.steps[-1].complete
    assert usage.steps[0].complete
    if usage.step_s == 10:  # as long as counts may be late
        assert [step.complete for step in usage.steps[-3:]] == [True, False, False]
    assert (usage.totals.requests, usage.cumulative.requests, usage.apis, usage.warnings) == (0, 0, [], [])
    assert {(step.allowed, step.global_tokens, step.store_p50_s, step.revision) for step in usage.steps} == {
        (0, None, None, None)
    }


async def test_the_fields_of_a_bucket_are_one_step(store: Redis, control: Control) -> None:
    at_s = await now_s(store) - 60
    counts = {"a": 7, "g": 1, "u": 2, "p": 3, "b": 4, "e": 5, "n": 6, "l": 8, "r": 3, "A": 1, "D": 1}
    await write(store, FINE, at_s, **counts, s="12 4500000 500")
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    step = next(step for step in usage.steps if step.allowed)
    assert step.at_us // 1_000_000 == at_s - at_s % 10
    assert (step.denied, step.blocked, step.exempt, step.undecided, step.local) == (6, 4, 5, 6, 8)
    assert step.denied_by == {TierName.GLOBAL: 1, TierName.USER: 2, TierName.USER_API: 3}
    assert (step.global_tokens, step.global_capacity) == (4_500_000, 500)
    assert (step.replicas, step.revision) == (3, 12)
    assert step.store_p50_s == pytest.approx(0.00005)
    assert step.store_p99_s == pytest.approx(0.000494)
    assert usage.totals.requests == 7 + 6 + 4 + 5 + 6
    assert (usage.store_p50_s, usage.warnings) == (step.store_p50_s, [])


async def test_buckets_add_up_to_the_steps_of_a_long_range(store: Redis, control: Control) -> None:
    """The last state counts, and the most replicas of a bucket."""
    now = await now_s(store)
    start_s = now - now % 1800 - 3600
    for minute in range(30):
        await write(store, COARSE, start_s + 60 * minute, a=1, r=2 + minute % 2, s=f"{minute} 1 2")
    for over, steps in ((UsageRange.DAY, 6), (UsageRange.WEEK, 1)):
        usage = await control.usage(over)
        found = [step for step in usage.steps if step.allowed]
        assert [step.allowed for step in found] == [30 // steps] * steps
        assert {step.replicas for step in found} == {3}
        assert found[-1].revision == 29


async def test_apis_are_sorted_by_requests(store: Redis, control: Control) -> None:
    now = await now_s(store)
    await write_api(store, APIS_FINE, now - 120, "/b", allowed=1, denied=2)
    await write_api(store, APIS_FINE, now - 60, "/b", allowed=2, denied=0)
    await write_api(store, APIS_FINE, now, "/a", allowed=9, denied=0)
    usage = await control.usage(UsageRange.HOUR)
    assert [(one.api, one.allowed, one.denied) for one in usage.apis] == [("/a", 9, 0), ("/b", 3, 2)]
    first_s = usage.api_from_us // 1_000_000
    assert (first_s % usage.api_step_s, usage.api_step_s) == (0, 60)
    this_minute = (now - first_s) // 60
    assert usage.apis[1].per_step[this_minute - 2 : this_minute + 1] == [3, 2, 0]


async def test_apis_of_long_ranges_come_from_half_hours(store: Redis, control: Control) -> None:
    now = await now_s(store)
    for ago_h in (0, 20, 100):
        await write_api(store, APIS_COARSE, now - 3600 * ago_h, "/a", allowed=1, denied=0)
    assert [one.allowed for one in (await control.usage(UsageRange.DAY)).apis] == [2]
    assert [one.allowed for one in (await control.usage(UsageRange.WEEK)).apis] == [3]


async def test_an_api_whose_name_is_lost_counts_as_other(store: Redis, control: Control) -> None:
    now = await now_s(store)
    await write_api(store, APIS_FINE, now, "/a", allowed=2, denied=0)
    await store.delete(layout.names_key(KEY, now))
    assert [one.api for one in (await control.usage(UsageRange.HOUR)).apis] == ["other"]


async def test_damaged_fields_are_left_out_with_a_warning(store: Redis, control: Control) -> None:
    now = await now_s(store)
    key = FINE.key(KEY, now - 120)
    await write(store, FINE, now - 120, a=5, u="many", r="-1", s="1 2", A=str(2**63), z=1)
    await store.hset(key, mapping={"": "1", "zz": "1", b"\xff": "\x00"})
    await store.hset(APIS_FINE.key(KEY, now), mapping={"": "1", "x": "1", "a": "1_0.0"})
    await store.hset(layout.total_key(KEY), mapping={"allowed": "5", "denied nobody": "1", b"\xff": "1"})
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert usage.totals.requests == 5
    assert usage.cumulative.allowed == 5
    assert usage.warnings == [
        f"damaged fields of {layout.total_key(KEY)} are left out: 2",
        f"damaged fields of {key} are left out: 8",
        f"damaged fields of {APIS_FINE.key(KEY, now)} are left out: 3",
    ]


async def test_keys_of_another_type_are_left_out_with_a_warning(store: Redis, control: Control) -> None:
    now = await now_s(store)
    keys = [
        FINE.key(KEY, now),
        APIS_FINE.key(KEY, now),
        layout.names_key(KEY, now),
        layout.total_key(KEY),
        f"{{{KEY}}}:revisions",
    ]
    for key in keys:
        await store.set(key, "x")
    usage = await control.usage(UsageRange.QUARTER_HOUR)
    assert len(usage.warnings) == 5
    for key in keys:
        assert any(key in warning for warning in usage.warnings)


async def test_changes_of_the_policy_within_the_range_are_marked(control: Control) -> None:
    for number in range(1, 8):
        text = limits_json(user_capacity=number)
        await control.apply(text, author="alice", note=str(number), expected=None)
    marks = (await control.usage(UsageRange.QUARTER_HOUR)).revisions
    assert [(mark.number, mark.author, mark.note) for mark in marks] == [
        (number, "alice", str(number)) for number in range(1, 8)
    ]


async def test_what_does_not_change_any_more_is_read_once(store: Redis, control: Control) -> None:
    """A series that was emptied is read again."""
    now = await now_s(store)
    await store.hset(layout.total_key(KEY), "allowed", 12)
    await write(store, COARSE, now - 4 * 3600, a=5)
    await write(store, COARSE, now, a=7)
    await write_api(store, APIS_COARSE, now - 4 * 3600, "/a", allowed=5, denied=0)
    for over in (UsageRange.DAY, UsageRange.WEEK):
        assert (await control.usage(over)).totals.allowed == 12
    for level in (COARSE, APIS_COARSE):
        await store.delete(level.key(KEY, now - 4 * 3600))
    await write(store, COARSE, now, a=8)
    for over in (UsageRange.DAY, UsageRange.WEEK):
        usage = await control.usage(over)
        assert (usage.totals.allowed, usage.apis[0].allowed) == (13, 5)
    await store.hset(layout.total_key(KEY), "allowed", 8)
    for over in (UsageRange.DAY, UsageRange.WEEK):
        usage = await control.usage(over)
        assert (usage.totals.allowed, usage.apis) == (8, [])


async def test_a_short_range_does_not_make_a_long_one_read_again(store: Redis, control: Control) -> None:
    at_s = await now_s(store) - 3000
    await write(store, FINE, at_s, a=5)
    for _ in range(2):
        assert (await control.usage(UsageRange.HOUR)).totals.allowed == 5
        await control.usage(UsageRange.QUARTER_HOUR)
        await store.delete(FINE.key(KEY, at_s))


async def test_a_store_whose_clock_stepped_back_is_read_again(store: Redis) -> None:
    """Replicas add to buckets that were closed."""
    reader = SeriesReader(store, KEY)
    week = RESOLUTIONS[UsageRange.WEEK]
    await write(store, COARSE, NOW_S, a=5)
    await reader.series(week, NOW_S + 4 * 3600)
    for count in (7, 9):
        await write(store, COARSE, NOW_S, a=count)
        steps = (await reader.series(week, NOW_S + 60)).steps.values()
        assert [step.counts["a"] for step in steps] == [count]


async def test_a_key_that_was_repaired_is_read_again(store: Redis, control: Control) -> None:
    at_s = await now_s(store) - 4 * 3600
    await write(store, COARSE, at_s, a="many")
    assert len((await control.usage(UsageRange.WEEK)).warnings) == 1
    await write(store, COARSE, at_s, a="3")
    usage = await control.usage(UsageRange.WEEK)
    assert (usage.totals.allowed, usage.warnings) == (3, [])
