"""Tests of the deny cache: it denies only what the store would deny at that instant, with the right wait.

The first tests try single behaviours, the next one random histories, both with a store in memory. The last
one uses a real store.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
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
from ratelimitd.limiter.deny_cache import RECOUNT_US, TRUST_US, DenyCache
from tests.core.fakes import OracleLimiter
from tests.core.take_requests import take_request
from tests.limiter.obeyed_wait import is_allowed_after_the_wait
from tests.script_limiter import ScriptLimiter

LIMIT = Limit(3, 2.0)
"""One token refills in half a second, which is less than TRUST_US."""


def request(key: str = "k", cost: int = MICRO, limit: Limit = LIMIT) -> TakeRequest:
    """Returns a request on a single bucket."""
    return take_request({key: limit}, cost)


def request_on_both(one: str, other: str) -> TakeRequest:
    """Returns a request on two buckets."""
    return take_request({one: LIMIT, other: LIMIT})


class Store(OracleLimiter):
    """A store in memory. During a call, before and after its decision, time may pass and others may call.

    Attributes:
        calls: the requests received.
        buckets_at_decision: the buckets at the moment of each decision, by the `id` of its request.
        before_decision: called on the way to the store.
        after_decision: called on the way back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[TakeRequest] = []
        self.buckets_at_decision: dict[int, dict[str, Bucket]] = {}
        self.before_decision: Callable[[], None] = lambda: None
        self.after_decision: Callable[[], None] = lambda: None

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome."""
        self.calls.append(request)
        before_decision, after_decision = self.before_decision, self.after_decision
        before_decision()
        self.buckets_at_decision[id(request)] = dict(self.buckets)
        outcome = await super().take(request)
        after_decision()
        return outcome

    def pass_time(self, us: int) -> None:
        """Advances the clock of the store and the local clock."""
        self.now_us += us

    def cache(self, max_entries: int = 100) -> DenyCache:
        """Returns a cache in front of this store. Its clock has a different start."""
        return DenyCache(self, now_us=lambda: self.now_us - 1_700_000_000_000_000, max_entries=max_entries)


def tier_limits(request: TakeRequest) -> list[tuple[TierName, Limit]]:
    """Returns the tiers of a request, with their limits."""
    return list(zip(TierName, request.charge.limits, strict=False))


def wait_of(outcome: Outcome) -> int:
    """Returns the wait in microseconds that a denial of `request()` reports."""
    _, us = denying_tier(tier_limits(request()), MICRO, outcome.tokens)
    assert us is not None
    return us


async def empty(store: Store, cache: DenyCache, *keys: str) -> None:
    """Spends these buckets until the cache knows a denial of each, and clears the list of calls."""
    for key in keys:
        while (await cache.take(request(key))).allowed:
            pass
    store.calls.clear()


async def test_a_second_denial_does_not_reach_the_store() -> None:
    store = Store()
    cache = store.cache()
    outcomes = [await cache.take(request()) for _ in range(6)]
    assert [outcome.allowed for outcome in outcomes] == [True] * 3 + [False] * 3
    assert len(store.calls) == 4
    denied = Outcome(allowed=False, tokens=(0,))
    assert outcomes[3:] == [denied, *[denied._replace(local=True)] * 2]


async def test_the_wait_of_repeat_denials_decreases_with_time() -> None:
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")
    waits = []
    for _ in range(3):
        store.pass_time(100_000)
        waits.append(wait_of(await cache.take(request())))
    assert waits == [400_000, 300_000, 200_000]
    assert store.calls == []


async def test_the_store_is_called_again_once_the_bucket_can_pay() -> None:
    """The call is one microsecond early: refills are rounded, by up to two microtokens."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")
    store.pass_time(499_998)
    assert not (await cache.take(request())).allowed
    assert store.calls == []
    store.pass_time(1)
    assert not (await cache.take(request())).allowed
    assert len(store.calls) == 1
    store.pass_time(1)
    assert (await cache.take(request())).allowed


async def test_the_duration_of_a_call_widens_the_bounds() -> None:
    """The store counted at some instant of the call: the next call is early, and the wait is long."""
    store = Store()
    cache = store.cache()
    store.before_decision = store.after_decision = lambda: store.pass_time(50_000)
    store.buckets["k"] = Bucket(0, store.now_us + 50_000)
    await cache.take(request())
    store.pass_time(399_998)
    assert wait_of(await cache.take(request())) == 100_002
    assert len(store.calls) == 1
    store.pass_time(1)
    await cache.take(request())
    assert len(store.calls) == 2


async def test_rounding_never_denies_what_the_store_would_allow() -> None:
    """9 us refill 14 microtokens and 15 us refill 24, both rounded down. In the store 24 us refill 40."""
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


async def test_a_cheaper_request_on_the_same_bucket_is_allowed() -> None:
    """The cache keeps the tokens of the bucket, not the answer."""
    store = Store()
    cache = store.cache()
    assert not (await cache.take(request(cost=4 * MICRO))).allowed
    assert not (await cache.take(request(cost=5 * MICRO))).allowed
    assert len(store.calls) == 1
    assert (await cache.take(request(cost=3 * MICRO))).allowed


async def test_a_cost_above_the_capacity_is_denied_locally_while_trusted() -> None:
    """The cache also limits the refill to the capacity."""
    store = Store()
    cache = store.cache()
    await cache.take(request(cost=4 * MICRO))
    store.pass_time(TRUST_US)
    assert (await cache.take(request(cost=4 * MICRO))).tokens == (3 * MICRO,)
    assert len(store.calls) == 1


@pytest.mark.parametrize("changed", [Limit(4, 2.0), Limit(3, 1.0)])
async def test_a_request_with_a_changed_limit_reaches_the_store(changed: Limit) -> None:
    """A request with an equal limit does not, even if that limit is another object."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")
    await cache.take(request(limit=Limit(3, 2.0)))
    assert store.calls == []
    await cache.take(request(limit=changed))
    assert len(store.calls) == 1


async def test_a_denial_is_trusted_for_one_second_after_its_call_was_sent() -> None:
    """After that, a bucket that was deleted in the store is full again."""
    store = Store()
    cache = store.cache()
    slow = request(limit=Limit(1, 0.001))
    await cache.take(slow)
    store.after_decision = lambda: store.pass_time(400_000)
    await cache.take(slow)
    store.buckets.clear()
    store.pass_time(TRUST_US - 400_000)
    assert not (await cache.take(slow)).allowed
    store.pass_time(1)
    assert (await cache.take(slow)).allowed


async def test_a_cleared_cache_calls_the_store() -> None:
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")
    store.buckets.clear()
    cache.clear()
    assert (await cache.take(request())).allowed


async def test_an_answer_to_a_call_from_before_a_clear_is_not_kept() -> None:
    """Its bucket may have been reset meanwhile. The next answer is kept."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")
    store.pass_time(TRUST_US + 1)
    store.after_decision = cache.clear
    expensive = request(cost=4 * MICRO)
    assert not (await cache.take(expensive)).allowed
    store.after_decision = lambda: None
    for _ in range(2):
        assert not (await cache.take(expensive)).allowed
    assert len(store.calls) == 2


async def test_the_least_recently_used_bucket_is_evicted() -> None:
    """Both reading and writing an entry count as use."""
    store = Store()
    cache = store.cache(max_entries=2)
    await empty(store, cache, "a", "b")
    await cache.take(request("a"))
    await cache.take(request("c", 4 * MICRO))
    store.calls.clear()
    for key in "ac":
        await cache.take(request(key, 4 * MICRO))
    assert store.calls == []
    await cache.take(request("b"))
    assert len(store.calls) == 1


async def test_rewriting_an_entry_counts_as_use() -> None:
    """This includes an entry whose trust has expired."""
    store = Store()
    cache = store.cache(max_entries=2)
    await empty(store, cache, "a", "b")
    store.pass_time(TRUST_US + 1)
    for key in "ac":
        await cache.take(request(key, 4 * MICRO))
    store.calls.clear()
    await cache.take(request("a", 4 * MICRO))
    assert store.calls == []


async def test_a_known_empty_bucket_denies_all_requests_that_use_it() -> None:
    """The outcome has no tokens for the buckets that are not known."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "shared")
    assert await cache.take(request_on_both("shared", "mine")) == Outcome(
        allowed=False, tokens=(0, None), local=True
    )
    assert await cache.take(request_on_both("mine", "shared")) == Outcome(
        allowed=False, tokens=(None, 0), local=True
    )
    assert store.calls == []


async def test_a_full_tier_of_a_denial_is_known_but_denies_nothing() -> None:
    """Repeat denials report its tokens."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "empty")
    cache.clear()
    await cache.take(request_on_both("full", "empty"))
    assert (await cache.take(request_on_both("full", "empty"))).tokens == (3 * MICRO, 0)
    assert len(store.calls) == 1
    assert (await cache.take(request("full"))).allowed


async def test_a_computed_denial_is_reused_until_it_must_be_recomputed() -> None:
    """It is recomputed after RECOUNT_US, or after the store has counted one of its buckets."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "empty")
    cache.clear()
    await cache.take(request_on_both("shared", "empty"))
    reusable = await cache.take(request_on_both("shared", "empty"))
    store.pass_time(RECOUNT_US - 1)
    assert await cache.take(request_on_both("shared", "empty")) is reusable
    await empty(store, cache, "shared")
    assert (await cache.take(request_on_both("shared", "empty"))).tokens == (0, (RECOUNT_US - 1) * 2)
    store.pass_time(RECOUNT_US)
    assert (await cache.take(request_on_both("shared", "empty"))).tokens[1] == (2 * RECOUNT_US - 1) * 2


async def test_denials_that_share_a_bucket_in_shadow_are_reused_separately() -> None:
    """The entry of a bucket that can deny holds the reusable outcome."""
    store = Store()
    cache = store.cache()
    await empty(store, cache, "a", "b")
    cache.clear()
    requests = [take_request({key: LIMIT}, shadow={"shared": LIMIT}) for key in "ab"]
    for each in requests:
        await cache.take(each)
    computed = [await cache.take(each) for each in requests]
    reused = [await cache.take(each) for each in requests]
    assert [id(outcome) for outcome in reused] == [id(outcome) for outcome in computed]


async def test_in_an_outage_only_requests_that_need_the_store_fail() -> None:
    store = Store()
    cache = store.cache()
    await empty(store, cache, "k")

    def fail() -> None:
        raise StoreError("away")

    store.before_decision = fail
    assert not (await cache.take(request())).allowed
    with pytest.raises(StoreError, match="away"):
        await cache.take(request("other"))
    assert not (await cache.take(request())).allowed


# Random histories.


@dataclass(frozen=True)
class Call:
    """A request, and what happens during its call.

    Attributes:
        direct: the request comes from another replica, which bypasses the cache.
        request: user, API, cost (microtokens), and whether the cost is relative to the tokens of the bucket
            that holds the fewest, which finds costs near the border between allowed and denied.
        before_us: from the start of the call to the decision of the store.
        after_us: from there to the end of the call.
        before: calls that others make before the decision.
        after: calls that others make after it.
    """

    direct: bool
    request: tuple[str, str, int, bool]
    before_us: int = 0
    after_us: int = 0
    before: tuple["Call", ...] = ()
    after: tuple["Call", ...] = ()


@dataclass(frozen=True)
class Remembered:
    """A bucket at the moment when the store denied a request, and the duration of that call."""

    bucket: Bucket | None
    latency_us: int


@dataclass(frozen=True)
class Moment:
    """An instant of the store's clock, the buckets then, and what the cache may have kept."""

    now_us: int
    buckets: dict[str, Bucket]
    remembered: dict[str, Remembered]


RATES = st.one_of(st.sampled_from([0.000001, 0.7, 1.0, 3.7, 1000.0]), st.floats(0.000001, 1_000_000))
POLICIES = st.tuples(*[st.builds(Limit, st.integers(1, 4), RATES)] * 3)
LATENCIES_US = st.one_of(st.integers(0, 5), st.integers(0, 300_000))
USERS, APIS = st.sampled_from("uv"), st.sampled_from("xy")
REQUESTS = st.one_of(
    st.tuples(USERS, APIS, st.integers(1, 5 * MICRO), st.just(False)),  # noqa: FBT003 - a tuple has no names
    st.tuples(USERS, APIS, st.integers(-2, 3), st.just(True)),  # noqa: FBT003 - a tuple has no names
)
WHOLE_TOKEN_REQUESTS = st.tuples(
    USERS,
    APIS,
    st.integers(1, 5).map(lambda tokens: tokens * MICRO),
    st.just(False),  # noqa: FBT003 - a tuple has no names
)
GAPS_US = st.one_of(st.integers(0, 100), st.integers(0, TRUST_US // 2), st.integers(0, 10**10))


def steps_of(
    requests: st.SearchStrategy[tuple[str, str, int, bool]],
) -> st.SearchStrategy[list[tuple[int, Call]]]:
    """Draws calls that make these requests, and the gaps (us) before them."""
    meanwhile = st.lists(st.builds(Call, st.booleans(), requests, LATENCIES_US, LATENCIES_US), max_size=2)
    others = meanwhile.map(tuple)
    calls = st.builds(Call, st.booleans(), requests, LATENCIES_US, LATENCIES_US, others, others)
    return st.lists(st.tuples(GAPS_US, calls), max_size=10)


STEPS = steps_of(REQUESTS)
WHOLE_TOKEN_STEPS = steps_of(WHOLE_TOKEN_REQUESTS)


class World:
    """A store that others also use, and a cache in front of it. Checks each denial that the cache makes."""

    def __init__(self, *, whole_tokens: bool = False) -> None:
        self.policy: tuple[Limit, ...] = ()
        self.whole_tokens = whole_tokens
        self.store = Store()
        self.cache = self.store.cache()
        self.remembered: dict[str, Remembered] = {}

    def change(self, policy: tuple[Limit, ...]) -> None:
        """Changes the limits of the three tiers."""
        self.policy = policy
        self.cache.clear()

    def request(self, user: str, api: str, cost: int, relative: bool) -> TakeRequest:  # noqa: FBT001 - see Call.request
        """Returns a request on three buckets, with the current limits."""
        keys = ("global", user, user + api)
        limits = dict(zip(keys, self.policy, strict=True))
        if relative:
            buckets, now_us = self.store.buckets, self.store.now_us
            cost += min(refill(buckets.get(key), limit, now_us).tokens for key, limit in limits.items())
        return take_request(limits, max(1, cost))

    def make(self, call: Call) -> None:
        """Makes the call, and checks its outcome if it is a denial that did not reach the store."""
        request = self.request(*call.request)
        if call.direct:
            run(OracleLimiter.take(self.store, request))
            return
        moment = Moment(self.store.now_us, dict(self.store.buckets), dict(self.remembered))

        def before_decision() -> None:
            for other in call.before:
                self.make(other)
            self.store.pass_time(call.before_us)

        def after_decision() -> None:
            for other in call.after:
                self.make(other)
            self.store.pass_time(call.after_us)

        outer = self.store.before_decision, self.store.after_decision
        self.store.before_decision, self.store.after_decision = before_decision, after_decision
        outcome = run(self.cache.take(request))
        self.store.before_decision, self.store.after_decision = outer
        if id(request) not in self.store.buckets_at_decision:
            self.check(request, outcome, moment)
        elif not outcome.allowed:
            buckets = self.store.buckets_at_decision[id(request)]
            latency_us = self.store.now_us - moment.now_us
            for key in request.keys:
                self.remembered[key] = Remembered(buckets.get(key), latency_us)

    def check(self, request: TakeRequest, outcome: Outcome, moment: Moment) -> None:
        """Checks a denial that the cache made at this moment."""
        truth, _ = bucket.charge_buckets(moment.buckets, request, moment.now_us)
        assert not truth.allowed
        assert not outcome.allowed
        if self.whole_tokens:
            assert is_allowed_after_the_wait(request, outcome, moment.buckets, moment.now_us)
        cost = request.charge.cost
        denying, denial_us = denying_tier(tier_limits(request), cost, outcome.tokens)
        if denial_us is None:
            return
        for (name, limit), key, known, true in zip(
            tier_limits(request), request.keys, outcome.tokens, truth.tokens, strict=True
        ):
            if known is None or true is None:
                continue
            remembered = moment.remembered[key]
            unspent = refill(remembered.bucket, limit, moment.now_us).tokens
            # One microtoken less, because the product of two doubles may be rounded up to a whole number.
            assert wait_us(cost - unspent - 1, limit.refill_rate) <= denial_us
            if name is denying:
                rounding_us = ceil(4 / limit.refill_rate) + 1
                true_us = wait_us(cost - true, limit.refill_rate)
                assert denial_us <= true_us + remembered.latency_us + RECOUNT_US + rounding_us


def run(call: Coroutine[object, object, Outcome]) -> Outcome:
    """Returns the result of a coroutine that never waits. It may run inside another one."""
    try:
        call.send(None)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    raise AssertionError("the coroutine waited")


@settings(max_examples=3 * settings().max_examples)
@given(st.lists(st.tuples(POLICIES, STEPS), min_size=1, max_size=2))
def test_the_store_would_make_the_same_denials_with_about_the_same_wait(
    eras: list[tuple[tuple[Limit, ...], list[tuple[int, Call]]]],
) -> None:
    """This holds at each instant, whatever others spend, and however long calls take and overlap.

    If no request spent tokens since the call whose denial is kept, the wait is long enough. It exceeds the
    true wait by at most the duration of that call plus RECOUNT_US.
    """
    world = World()
    for policy, steps in eras:
        world.change(policy)
        for gap_us, call in steps:
            world.store.pass_time(gap_us)
            world.make(call)


@given(POLICIES, WHOLE_TOKEN_STEPS)
def test_obeying_a_local_denial_is_enough_whatever_calls_overlap(
    policy: tuple[Limit, ...], steps: list[tuple[int, Call]]
) -> None:
    """All costs are whole tokens, as in a policy."""
    world = World(whole_tokens=True)
    world.change(policy)
    for gap_us, call in steps:
        world.store.pass_time(gap_us)
        world.make(call)


async def test_a_bucket_deleted_in_the_store_is_denied_only_while_trusted(store: Redis) -> None:
    now_us = 0
    cache = DenyCache(ScriptLimiter(store), now_us=lambda: now_us)
    slow = request(limit=Limit(1, 0.001))
    assert [(await cache.take(slow)).allowed for _ in range(2)] == [True, False]
    await store.delete("k")
    now_us = TRUST_US
    assert not (await cache.take(slow)).allowed
    now_us += 1
    assert (await cache.take(slow)).allowed
