"""Top users on a real store: what replicas publish, and what operators read of it."""

from collections import Counter
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.control.control import Control
from ratelimitd.control.usage_answers import TopUsers
from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Identity, Request, Verdict
from ratelimitd.errors import StoreError
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.usage.top_publisher import TopUsersPublisher, counting_users
from ratelimitd.usage.top_store import KEPT_S, TopStore
from ratelimitd.usage.user_counts import LISTED, PERIOD_S, UserCounts
from tests.example_limits import KEY
from tests.replicas import replica

USERS = [f"user-{number}" for number in range(10)]
NOWHERE = "redis://127.0.0.1:1/0"
PREFIX = f"{{{KEY}}}:top"
IMPOSSIBLE = (
    '{"version":1,"mode":"on","began_us":0,"all":{"total":1,"floor":0,"users":[["a",1,2]]},'
    '"denied":{"total":0,"floor":0,"users":[]}}'
)
"""A period with a user whose error exceeds its count, which no replica writes."""

REQUEST = Request("GET", "/", "host", {}, "203.0.113.9", {})


def decision(key: str, verdict: Verdict = Verdict.ALLOWED, *, dry_run: bool = False) -> Decision:
    return Decision(verdict, REQUEST, Identity("header", key), "", None, dry_run=dry_run)


class Replica:
    """A replica whose clock the test moves, with a summary of four users."""

    def __init__(self, store: Redis, name: str = "r1", mode: Literal["on", "hashed"] = "on") -> None:
        self.now_s = 0.0
        self.counts = UserCounts(lambda: self.now_s, kept=4, buffered=3, listed=3)
        self.publisher = TopUsersPublisher(store, KEY, name, mode, self.counts)

    def decide(self, *keys: str, verdict: Verdict = Verdict.ALLOWED) -> None:
        for key in keys:
            self.counts.decided(decision(key, verdict))

    async def fail_to_publish(self) -> None:
        async with open_client(NOWHERE) as away:
            store, self.publisher._store = self.publisher._store, TopStore(away, KEY)
            with pytest.raises(StoreError):
                await self.publisher.publish()
            self.publisher._store = store


async def top(store: Redis, *, denied: bool = False, most: int = 100) -> TopUsers:
    return await Control(store, load({}, {})).top_users(denied=denied, most=most)


def counts_of(answer: TopUsers) -> dict[str, tuple[int, int]]:
    return {user.key: (user.requests, user.error) for user in answer.users}


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(USERS), st.booleans())
    | st.tuples(st.integers(0, 2), st.sampled_from(["publish", "wait", "fail"])),
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, most=st.integers(1, 8))
async def test_bounds_hold_over_replicas_periods_and_failures(
    store: Redis, steps: list[tuple[int, str, bool] | tuple[int, str]], most: int
) -> None:
    """A step is a request to one of three replicas, or a replica publishes, fails to, or begins a period."""
    await store.flushall()
    replicas = [Replica(store, f"r{number}") for number in range(3)]
    true: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for step in steps:
        on = replicas[step[0]]
        match step[1:]:
            case ("publish",):
                await on.publisher.publish()
            case ("wait",):
                on.now_s += PERIOD_S
            case ("fail",):
                await on.fail_to_publish()
            case (str(key), bool(is_denied)):
                on.decide(key, verdict=Verdict.DENIED if is_denied else Verdict.ALLOWED)
                true[False][key] += 1
                true[True][key] += is_denied
    for one in replicas:
        await one.publisher.publish()
    for is_denied, count in true.items():
        answer = await top(store, denied=is_denied, most=most)
        assert answer.total == count.total()
        assert len(answer.users) <= most
        for user in answer.users:
            assert user.requests - user.error <= count[user.key] <= user.requests
        listed = {user.key for user in answer.users}
        assert all(count[key] <= answer.error_bound for key in USERS if key not in listed)


async def test_dry_runs_do_not_count(store: Redis) -> None:
    one = Replica(store)
    one.counts.decided(decision("alice", Verdict.DENIED, dry_run=True))
    one.decide("alice")
    await one.publisher.publish()
    assert counts_of(await top(store)) == {"alice": (1, 0)}
    assert (await top(store, denied=True)).total == 0


async def test_a_replica_that_stops_publishes_once_more(store: Redis) -> None:
    async with counting_users(store, KEY, "r1", "on") as observers:
        for observer in observers:
            observer.decided(decision("alice"))
    assert counts_of(await top(store)) == {"alice": (1, 0)}


async def test_nothing_is_counted_or_published_when_off(store: Redis) -> None:
    async with counting_users(store, KEY, "r1", "off") as observers:
        assert list(observers) == []
    assert await store.keys("*") == []


async def test_every_key_expires_and_the_index_forgets_those_that_have(store: Redis) -> None:
    one, other = Replica(store), Replica(store, "r2", "hashed")
    for each in (one, other):
        each.decide("alice")
        await each.publisher.publish()
    keys = await store.keys(f"{PREFIX}:*")
    assert len(keys) == 4
    for key in keys:
        assert 0 < await store.ttl(key) <= 2 * KEPT_S
    await store.delete(f"{PREFIX}:period:r1:1")
    other.now_s = PERIOD_S
    await other.publisher.publish()
    assert await store.hkeys(f"{PREFIX}:periods") == [
        f"{PREFIX}:period:r2:{number}".encode() for number in (1, 2)
    ]


async def test_hashed_names_are_equal_on_all_replicas_and_no_other_name_is_stored(store: Redis) -> None:
    one, other = Replica(store, "r1", "hashed"), Replica(store, "r2", "hashed")
    one.decide("alice%40example.com", "=anonymous")
    other.decide("alice%40example.com")
    for each in (one, other):
        await each.publisher.publish()
    first, second = (await top(store)).users
    assert (first.kind, first.requests) == ("hashed", 2)
    assert first.name == first.key != "hashed="
    assert (second.kind, second.key) == ("anonymous", "=anonymous")
    for key in await store.keys(f"{PREFIX}:period:*"):
        assert "alice" not in str(await store.get(key))


async def test_without_the_salt_of_the_store_a_hashed_name_cannot_be_computed(store: Redis) -> None:
    one = Replica(store, "r1", "hashed")
    one.decide("alice")
    await one.publisher.publish()
    (before,) = (await top(store)).users
    await store.flushall()
    await one.publisher.publish()
    (after,) = (await top(store)).users
    assert before.key != after.key


@pytest.mark.parametrize(
    "value",
    [
        *("", "x", "[]", "{}", "\xff", '{"version":2}'),
        IMPOSSIBLE,
    ],
)
async def test_a_period_that_cannot_be_read_is_left_out_with_a_warning(store: Redis, value: str) -> None:
    one = Replica(store)
    one.decide("alice")
    await one.publisher.publish()
    await store.set(f"{PREFIX}:period:r2:1", value.encode("latin-1"))
    await store.lpush(f"{PREFIX}:period:r3:1", "x")
    await store.set("another key", "x")
    for key in (f"{PREFIX}:period:r2:1", f"{PREFIX}:period:r3:1", "another key"):
        await store.hset(f"{PREFIX}:periods", key, key)
    answer = await top(store)
    assert counts_of(answer) == {"alice": (1, 0)}
    assert sorted(answer.warnings) == [
        f"the key {PREFIX}:period:r{number}:1 cannot be read and is left out" for number in (2, 3)
    ]


async def test_a_count_of_something_that_is_not_an_identity_is_left_out_with_a_warning(store: Redis) -> None:
    one = Replica(store)
    one.decide("</script>")
    await one.publisher.publish()
    answer = await top(store)
    assert answer.users == []
    assert answer.warnings == ["the store holds counts of '</script>', which is not the key of an identity"]


async def test_an_index_of_another_type_is_a_warning(store: Redis) -> None:
    await store.set(f"{PREFIX}:periods", "x")
    answer = await top(store)
    assert (answer.users, answer.mode) == ([], None)
    assert answer.warnings == [f"the key {PREFIX}:periods must be a hash, but holds another type; delete it"]


@pytest.mark.parametrize(
    ("modes", "mode"), [(["on", "on"], "on"), (["off"], "off"), (["on", "off"], "mixed"), ([], None)]
)
async def test_the_mode_is_the_setting_of_the_replicas(store: Redis, modes: list[str], mode: str) -> None:
    seconds, micros = await store.time()
    for number, one in enumerate(modes):
        entry = replica(f"r{number}", seen_us=seconds * 1_000_000 + micros)
        await Replicas(store, KEY).publish(entry.model_copy(update={"top_users": one}))
    answer = await top(store)
    assert answer.mode == mode
    assert answer.warnings == (
        ["the replicas differ in RATELIMITD_TOP_USERS: 1 off, 1 on"] if mode == "mixed" else []
    )


async def test_the_window_begins_with_the_first_period(store: Redis) -> None:
    one = Replica(store)
    one.decide(*["alice"] * 30)
    one.now_s = 59.5
    await one.publisher.publish()
    answer = await top(store)
    assert 59 <= answer.window_s <= 65
    (alice,) = answer.users
    assert answer.share(alice) == 1
    assert answer.rate_per_s(alice) == 30 / answer.window_s


async def test_a_period_that_ends_in_an_outage_is_published_later(store: Redis) -> None:
    one = Replica(store)
    for key in ("alice", "bob"):
        one.decide(key)
        one.now_s += PERIOD_S
        await one.fail_to_publish()
    one.decide("carol")
    await one.publisher.publish()
    assert counts_of(await top(store)) == {"alice": (1, 0), "bob": (1, 0), "carol": (1, 0)}
    assert (await top(store)).window_s >= 2 * PERIOD_S


async def test_an_outage_is_one_log_line() -> None:
    async with open_client(NOWHERE) as away:
        one = Replica(away)
        with capture_logs() as logs:
            for _ in range(3):
                async with one.publisher.publishing():
                    pass
    assert [line["event"] for line in logs] == ["top_users_publish_failed"]


async def test_the_store_holds_a_bounded_amount_for_many_users_with_long_names(store: Redis) -> None:
    counts = UserCounts(lambda: 0.0)
    for number in range(20_000):
        for key in (f"once-{number:0123d}", f"{number % LISTED:0128d}"):
            counts.decided(decision(key, Verdict.DENIED))
    publisher = TopUsersPublisher(store, KEY, "r1", "on", counts)
    await publisher.publish()
    assert await store.strlen(f"{PREFIX}:period:r1:1") < 32 * 1024
    assert len((await top(store)).users) == LISTED
