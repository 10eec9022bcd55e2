"""Without asking is denied only what the store would have denied at that instant, and with the right wait.

First one behaviour at a time, then the law for any history, both over the oracle as the store; then a real
store.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ratelimitd.core import bucket
from ratelimitd.core.bucket import Bucket, refill, wait_us
from ratelimitd.core.denial import denying_tier
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.core.tiers import TierName
from ratelimitd.errors import StoreError
from ratelimitd.limiter.deny_cache import RECOUNT_US, TRUST_US, DenyCache, monotonic_us
from ratelimitd.store.client import open_client
from tests.core.fakes import OracleLimiter
from tests.core.take_requests import take_request
from tests.limiters import ScriptLimiter

LIMIT = Limit(3, 2.0)
"""Half a second brings a token back, well within the trust."""


def request(key: str = "k", cost: int = MICRO, limit: Limit = LIMIT) -> TakeRequest:
    """A request on a single bucket."""
    return take_request({key: limit}, cost)


def both(one: str, other: str) -> TakeRequest:
    """A request on two buckets."""
    return take_request({one: LIMIT, other: LIMIT})


class Store(OracleLimiter):
    """The oracle, and a way there and back on which time may pass and others may ask.

    It notes its calls, and the buckets as they stood when it counted for a request, by the id of that.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[TakeRequest] = []
        self.counted: dict[int, dict[str, Bucket]] = {}
        self.there: Callable[[], None] = lambda: None
        self.back: Callable[[], None] = lambda: None

    async def take(self, request: TakeRequest) -> Outcome:
        """The oracle's outcome, some time later."""
        self.calls.append(request)
        there, back = self.there, self.back
        there()
        self.counted[id(request)] = dict(self.buckets)
        outcome = await super().take(request)
        back()
        return outcome

    def pass_time(self, us: int) -> None:
        """For the store and the local clock alike."""
        self.now_us += us

    def cache(self, max_entries: int = 100) -> DenyCache:
        """A cache before this store. Its clock begins elsewhere."""
        return DenyCache(self, now_us=lambda: self.now_us - 1_700_000_000_000_000, max_entries=max_entries)


def limits(asked: TakeRequest) -> list[tuple[TierName, Limit]]:
    """Those of a request's tiers."""
    return list(zip(TierName, asked.charge.limits, strict=False))


def told_wait_us(outcome: Outcome) -> int:
    """The wait that a denial of `request()` tells."""
    return denying_tier(limits(request()), MICRO, outcome.tokens)[1]


async def emptied(store: Store, cache: DenyCache, *keys: str) -> None:
    """Spends all of these buckets, has a denial of each remembered, and forgets the calls."""
    for key in keys:
        while (await cache.take(request(key))).allowed:
            pass
    store.calls.clear()


async def test_a_second_denial_does_not_reach_the_store() -> None:
    """And it is the same as the first."""
    store = Store()
    cache = store.cache()
    outcomes = [await cache.take(request()) for _ in range(6)]
    assert [outcome.allowed for outcome in outcomes] == [True] * 3 + [False] * 3
    assert len(store.calls) == 4
    assert outcomes[3:] == [Outcome(allowed=False, tokens=(0,))] * 3


async def test_the_wait_is_counted_down() -> None:
    """The tokens grow as the store's would."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")
    waits = []
    for _ in range(3):
        store.pass_time(100_000)
        waits.append(told_wait_us(await cache.take(request())))
    assert waits == [400_000, 300_000, 200_000]
    assert store.calls == []


async def test_the_store_is_asked_again_once_the_bucket_can_pay() -> None:
    """Two microtokens, a microsecond, early, for the rounding of refills; not a whole wait later."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")
    store.pass_time(499_998)
    assert not (await cache.take(request())).allowed
    assert store.calls == []
    store.pass_time(1)
    assert not (await cache.take(request())).allowed
    assert len(store.calls) == 1
    store.pass_time(1)
    assert (await cache.take(request())).allowed


async def test_a_call_that_took_long_is_believed_the_less() -> None:
    """The count may be as old as the call or as new as the answer: asked is early, the wait told is long."""
    store = Store()
    cache = store.cache()
    store.there = store.back = lambda: store.pass_time(50_000)
    store.buckets["k"] = Bucket(0, store.now_us + 50_000)
    await cache.take(request())
    store.pass_time(399_998)
    assert told_wait_us(await cache.take(request())) == 100_002
    assert len(store.calls) == 1
    store.pass_time(1)
    await cache.take(request())
    assert len(store.calls) == 2


async def test_rounding_denies_nobody_whom_the_store_would_let_in() -> None:
    """9 us refill 14 microtokens and 15 us 24, both rounded down; by the store's doubles 24 us refill 40."""
    store = Store()
    cache = store.cache()
    limit = Limit(1, 1.6666666666666665)
    store.buckets["k"] = Bucket(0, store.now_us)
    store.pass_time(9)
    assert (await cache.take(request(cost=MICRO, limit=limit))).tokens == (14,)
    store.pass_time(15)
    assert not (await cache.take(request(cost=41, limit=limit))).allowed
    assert len(store.calls) == 1
    assert (await cache.take(request(cost=40, limit=limit))).allowed


async def test_a_cheaper_request_on_the_same_bucket_goes_through() -> None:
    """What is known is the bucket, not the answer."""
    store = Store()
    cache = store.cache()
    assert not (await cache.take(request(cost=4 * MICRO))).allowed
    assert not (await cache.take(request(cost=5 * MICRO))).allowed
    assert len(store.calls) == 1
    assert (await cache.take(request(cost=3 * MICRO))).allowed


async def test_a_cost_above_the_capacity_never_reaches_the_store_within_the_trust() -> None:
    """The refill is bounded by the capacity here too."""
    store = Store()
    cache = store.cache()
    await cache.take(request(cost=4 * MICRO))
    store.pass_time(TRUST_US)
    assert (await cache.take(request(cost=4 * MICRO))).tokens == (3 * MICRO,)
    assert len(store.calls) == 1


@pytest.mark.parametrize("changed", [Limit(4, 2.0), Limit(3, 1.0)])
async def test_another_limit_is_the_stores_to_judge(changed: Limit) -> None:
    """Another capacity or refill rate makes another bound. An equal limit is the same, though read anew."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")
    await cache.take(request(limit=Limit(3, 2.0)))
    assert store.calls == []
    await cache.take(request(limit=changed))
    assert len(store.calls) == 1


async def test_a_denial_is_trusted_for_a_second_from_its_sending() -> None:
    """A bucket that was deleted is then full again here too."""
    store = Store()
    cache = store.cache()
    slow = request(limit=Limit(1, 0.001))
    await cache.take(slow)
    store.back = lambda: store.pass_time(400_000)
    await cache.take(slow)
    store.buckets.clear()
    store.pass_time(TRUST_US - 400_000)
    assert not (await cache.take(slow)).allowed
    store.pass_time(1)
    assert (await cache.take(slow)).allowed


async def test_a_cleared_cache_asks() -> None:
    """For a bucket that was reset, nothing has to be waited for."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")
    store.buckets.clear()
    cache.clear()
    assert (await cache.take(request())).allowed


async def test_an_answer_from_before_a_clear_is_not_remembered() -> None:
    """It may tell of the bucket that was reset meanwhile. The one after is remembered again."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")
    store.pass_time(TRUST_US + 1)
    store.back = cache.clear
    dear = request(cost=4 * MICRO)
    assert not (await cache.take(dear)).allowed
    store.back = lambda: None
    for _ in range(2):
        assert not (await cache.take(dear)).allowed
    assert len(store.calls) == 2


async def test_the_least_recently_used_bucket_is_forgotten() -> None:
    """To be asked about makes an entry young, as to be written does."""
    store = Store()
    cache = store.cache(max_entries=2)
    await emptied(store, cache, "a", "b")
    await cache.take(request("a"))
    await cache.take(request("c", 4 * MICRO))
    store.calls.clear()
    for key in "ac":
        await cache.take(request(key, 4 * MICRO))
    assert store.calls == []
    await cache.take(request("b"))
    assert len(store.calls) == 1


async def test_a_denial_that_is_written_again_is_young() -> None:
    """Also where its key was known before, but trusted no longer."""
    store = Store()
    cache = store.cache(max_entries=2)
    await emptied(store, cache, "a", "b")
    store.pass_time(TRUST_US + 1)
    for key in "ac":
        await cache.take(request(key, 4 * MICRO))
    store.calls.clear()
    await cache.take(request("a", 4 * MICRO))
    assert store.calls == []


async def test_a_bucket_that_said_no_denies_whoever_spends_from_it() -> None:
    """Of the other's own bucket nothing is known, and nothing is told."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "shared")
    assert await cache.take(both("shared", "mine")) == Outcome(allowed=False, tokens=(0, None))
    assert await cache.take(both("mine", "shared")) == Outcome(allowed=False, tokens=(None, 0))
    assert store.calls == []


async def test_all_tiers_of_a_denial_are_remembered_and_the_full_ones_deny_nobody() -> None:
    """They are told while they are known."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "empty")
    cache.clear()
    await cache.take(both("full", "empty"))
    assert (await cache.take(both("full", "empty"))).tokens == (3 * MICRO, 0)
    assert len(store.calls) == 1
    assert (await cache.take(request("full"))).allowed


async def test_a_denial_is_given_again_until_it_must_be_counted_anew() -> None:
    """Or until a bucket of it was counted by the store: then those tokens are told."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "empty")
    cache.clear()
    await cache.take(both("shared", "empty"))
    given = await cache.take(both("shared", "empty"))
    store.pass_time(RECOUNT_US - 1)
    assert await cache.take(both("shared", "empty")) is given
    await emptied(store, cache, "shared")
    assert (await cache.take(both("shared", "empty"))).tokens == (0, (RECOUNT_US - 1) * 2)
    store.pass_time(RECOUNT_US)
    assert (await cache.take(both("shared", "empty"))).tokens[1] == (2 * RECOUNT_US - 1) * 2


async def test_a_bucket_in_shadow_that_all_share_is_no_hindrance_to_that() -> None:
    """What is given again is kept by a bucket that can deny."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "a", "b")
    cache.clear()
    asked = [take_request({key: LIMIT}, shadow={"shared": LIMIT}) for key in "ab"]
    for one in asked:
        await cache.take(one)
    given = [await cache.take(one) for one in asked]
    again = [await cache.take(one) for one in asked]
    assert [id(outcome) for outcome in again] == [id(outcome) for outcome in given]


async def test_a_store_that_is_away_is_an_error_only_for_those_who_need_it() -> None:
    """A denial that is known stands, before and after."""
    store = Store()
    cache = store.cache()
    await emptied(store, cache, "k")

    def fail() -> None:
        raise StoreError("away")

    store.there = fail
    assert not (await cache.take(request())).allowed
    with pytest.raises(StoreError, match="away"):
        await cache.take(request("other"))
    assert not (await cache.take(request())).allowed


# The law, for any history.


@dataclass(frozen=True)
class Ask:
    """Somebody asks: through the cache, or as another replica does, which the cache cannot see.

    The request is a user, an API, a cost in microtokens, and whether that comes on top of what its poorest
    bucket holds, for costs that can just be paid or just not. A call of the cache travels `there_us` until
    the store counts, and `back_us` from then on. Others ask meanwhile: each before or after the count.
    """

    direct: bool
    request: tuple[str, str, int, bool]
    there_us: int = 0
    back_us: int = 0
    before: tuple["Ask", ...] = ()
    after: tuple["Ask", ...] = ()


@dataclass(frozen=True)
class Remembered:
    """A bucket as the store held it when it counted for a denial, and how long that call took."""

    bucket: Bucket | None
    latency_us: int


@dataclass(frozen=True)
class Moment:
    """An instant by the store's clock, what the store held, and what the cache may remember."""

    now_us: int
    buckets: dict[str, Bucket]
    remembered: dict[str, Remembered]


RATES = st.one_of(st.sampled_from([0.000001, 0.7, 1.0, 3.7, 1000.0]), st.floats(0.000001, 1_000_000))
POLICIES = st.tuples(*[st.builds(Limit, st.integers(1, 4), RATES)] * 3)
LATENCIES_US = st.one_of(st.integers(0, 5), st.integers(0, 300_000))
USERS, APIS = st.sampled_from("uv"), st.sampled_from("xy")
REQUESTS = st.one_of(
    st.tuples(USERS, APIS, st.integers(1, 5 * MICRO), st.just(False)),  # noqa: FBT003 - a tuple has no names
    st.tuples(USERS, APIS, st.integers(-2, 3), st.just(True)),  # noqa: FBT003 - likewise
)
MEANWHILE = st.lists(st.builds(Ask, st.booleans(), REQUESTS, LATENCIES_US, LATENCIES_US), max_size=2).map(
    tuple
)
ASKS = st.builds(Ask, st.booleans(), REQUESTS, LATENCIES_US, LATENCIES_US, MEANWHILE, MEANWHILE)
GAPS_US = st.one_of(st.integers(0, 100), st.integers(0, TRUST_US // 2), st.integers(0, 10**10))
STEPS = st.lists(st.tuples(GAPS_US, ASKS), max_size=10)


class World:
    """A store that others use too, a cache before it, and what has to be true of every denial made there."""

    def __init__(self) -> None:
        self.policy: tuple[Limit, ...] = ()
        self.store = Store()
        self.cache = self.store.cache()
        self.remembered: dict[str, Remembered] = {}

    def change(self, policy: tuple[Limit, ...]) -> None:
        """Puts a policy in force, the limits of the three tiers."""
        self.policy = policy
        self.cache.clear()

    def request(self, user: str, api: str, cost: int, above_what_is_left: bool) -> TakeRequest:  # noqa: FBT001 - see Ask
        """A request on three buckets, with the limits in force."""
        keys = ("global", user, user + api)
        limits = dict(zip(keys, self.policy, strict=True))
        if above_what_is_left:
            buckets, now_us = self.store.buckets, self.store.now_us
            cost += min(refill(buckets.get(key), limit, now_us).tokens for key, limit in limits.items())
        return take_request(limits, max(1, cost))

    def ask(self, ask: Ask) -> None:
        """Asks, and tries the law on each denial that the store has not seen."""
        request = self.request(*ask.request)
        if ask.direct:
            run(OracleLimiter.take(self.store, request))
            return
        moment = Moment(self.store.now_us, dict(self.store.buckets), dict(self.remembered))

        def there() -> None:
            for other in ask.before:
                self.ask(other)
            self.store.pass_time(ask.there_us)

        def back() -> None:
            for other in ask.after:
                self.ask(other)
            self.store.pass_time(ask.back_us)

        around = self.store.there, self.store.back
        self.store.there, self.store.back = there, back
        outcome = run(self.cache.take(request))
        self.store.there, self.store.back = around
        if id(request) not in self.store.counted:
            self.check(request, outcome, moment)
        elif not outcome.allowed:
            buckets = self.store.counted[id(request)]
            latency_us = self.store.now_us - moment.now_us
            for key in request.keys:
                self.remembered[key] = Remembered(buckets.get(key), latency_us)

    def check(self, request: TakeRequest, outcome: Outcome, moment: Moment) -> None:
        """The law, for a denial made here at that moment."""
        truth, _ = bucket.charge_buckets(moment.buckets, request, moment.now_us)
        assert not truth.allowed
        assert not outcome.allowed
        cost = request.charge.cost
        denying, told_us = denying_tier(limits(request), cost, outcome.tokens)
        for (name, limit), key, known, true in zip(
            limits(request), request.keys, outcome.tokens, truth.tokens, strict=True
        ):
            if known is None or true is None:
                continue
            remembered = moment.remembered[key]
            unspent = refill(remembered.bucket, limit, moment.now_us).tokens
            # To the microtoken: the double product of a part may be rounded up to a whole number.
            assert wait_us(cost - unspent - 1, limit.refill_rate) <= told_us
            if name is denying:
                rounding_us = ceil(4 / limit.refill_rate) + 1
                true_us = wait_us(cost - true, limit.refill_rate)
                assert told_us <= true_us + remembered.latency_us + RECOUNT_US + rounding_us


def run(call: Coroutine[object, object, Outcome]) -> Outcome:
    """The result of a call that never waits: so one can be made while another is on its way."""
    try:
        call.send(None)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    raise AssertionError("it waited")


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(st.tuples(POLICIES, STEPS), min_size=1, max_size=2))
def test_whoever_is_denied_here_is_denied_by_the_store_and_told_its_wait(
    eras: list[tuple[tuple[Limit, ...], list[tuple[int, Ask]]]],
) -> None:
    """At that very instant, whatever others spend and however long calls take and overlap.

    If nobody spent since the call that is remembered, the wait is enough. It is never longer than the true
    one by more than that call took, and RECOUNT_US.
    """
    world = World()
    for policy, steps in eras:
        world.change(policy)
        for gap_us, ask in steps:
            world.store.pass_time(gap_us)
            world.ask(ask)


# On a real store.


@dataclass
class Replica:
    """A cache before a limiter of its own, and when its last denial came from the store (us, monotonic)."""

    limiter: ScriptLimiter
    calls: int = 0
    answered_us: int = 0
    cache: DenyCache = field(init=False)

    def __post_init__(self) -> None:
        self.cache = DenyCache(self)

    async def take(self, request: TakeRequest) -> Outcome:
        """The limiter's outcome."""
        self.calls += 1
        outcome = await self.limiter.take(request)
        if not outcome.allowed:
            self.answered_us = monotonic_us()
        return outcome


HOT = Limit(5, 200.0)
HOT_REQUEST = request("hot", limit=HOT)
PEEK = request("hot", cost=6 * MICRO, limit=HOT)
"""Costs more than the bucket can hold: it spends nothing and tells the tokens."""


@dataclass(frozen=True)
class Peek:
    """The microtokens in the store, at an instant between two (us, monotonic)."""

    sent_us: int
    received_us: int
    tokens: int


@dataclass(frozen=True)
class Denial:
    """A denial that reached no store, made between two instants, on an answer of a third (us, monotonic)."""

    answered_us: int
    began_us: int
    ended_us: int


def check_against_looks(denial: Denial, peeks: Sequence[Peek]) -> None:
    """The last look before a denial saw too little, and the first after it no more than that and the refill.

    A look before it says nothing when it may be older than the answer that the denial rests on.
    """
    before = bisect_right(peeks, denial.began_us, key=lambda peek: peek.received_us) - 1
    if before >= 0 and peeks[before].sent_us >= denial.answered_us:
        assert peeks[before].tokens < MICRO
    after = bisect_left(peeks, denial.ended_us, key=lambda peek: peek.sent_us)
    if after < len(peeks):
        refilled = HOT.refill_rate * (peeks[after].received_us - denial.began_us)
        assert peeks[after].tokens < MICRO + refilled


async def server_us(store: Redis) -> int:
    """The store's clock."""
    seconds, micros = await store.time()
    return int(seconds) * MICRO + int(micros)


async def test_a_hot_user_is_denied_by_two_replicas_only_while_the_store_would(
    store_url: str, store: Redis
) -> None:
    """A third looks into the bucket all the time. Together they admit what the limit allows, and no more."""
    admitted = 0
    denials: list[Denial] = []
    peeks: list[Peek] = []
    done = asyncio.Event()

    async def ask_through(replica: Replica) -> None:
        nonlocal admitted
        while not done.is_set():
            calls, answered_us, began_us = replica.calls, replica.answered_us, monotonic_us()
            outcome = await replica.cache.take(HOT_REQUEST)
            admitted += outcome.allowed
            if replica.calls == calls:  # so nobody else ran meanwhile
                assert not outcome.allowed
                denials.append(Denial(answered_us, began_us, monotonic_us()))
            await asyncio.sleep(0)

    async def look_into(limiter: ScriptLimiter) -> None:
        nonlocal admitted
        for turn in range(400):
            sent_us = monotonic_us()
            outcome = await limiter.take(PEEK)
            (tokens,) = outcome.tokens
            assert tokens is not None
            peeks.append(Peek(sent_us, monotonic_us(), tokens))
            if turn % 10 == 0:
                outcome = await limiter.take(HOT_REQUEST)
                admitted += outcome.allowed
        done.set()

    async with (
        open_client(store_url) as first,
        open_client(store_url) as second,
        open_client(store_url) as third,
    ):
        replicas = [Replica(ScriptLimiter(first)), Replica(ScriptLimiter(second))]
        began_us = await server_us(store)
        async with asyncio.TaskGroup() as tasks:
            for replica in replicas * 4:
                tasks.create_task(ask_through(replica))
            tasks.create_task(look_into(ScriptLimiter(third)))
        ended_us = await server_us(store)

    assert denials
    assert HOT.capacity <= admitted <= HOT.capacity + HOT.refill_rate * (ended_us - began_us) / MICRO
    for denial in denials:
        check_against_looks(denial, peeks)


async def test_a_bucket_deleted_in_the_store_is_served_again_within_the_trust(store: Redis) -> None:
    """By a replica that nobody told. Until then it denies."""
    now_us = 0
    cache = DenyCache(ScriptLimiter(store), now_us=lambda: now_us)
    slow = request(limit=Limit(1, 0.001))
    assert [(await cache.take(slow)).allowed for _ in range(2)] == [True, False]
    await store.delete("k")
    now_us = TRUST_US
    assert not (await cache.take(slow)).allowed
    now_us += 1
    assert (await cache.take(slow)).allowed
