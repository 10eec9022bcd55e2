"""Tests of the waits of local denials: obeying one once is enough, whatever others have spent before it.

The first tests try single histories, the last one random ones. Several replicas share a store in memory.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from ratelimitd.core.bucket import Bucket, charge_buckets
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.limiter.bucket_count import SPENT_AT_ONCE
from ratelimitd.limiter.deny_cache import RECOUNT_US, TRUST_US, DenyCache
from tests.core.fakes import OracleLimiter
from tests.core.take_requests import take_request
from tests.limiter.obeyed_wait import is_allowed_after_the_wait, retry_after_s


class Store(OracleLimiter):
    """A store in memory that counts the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome."""
        self.calls += 1
        return await super().take(request)


Step = tuple[int, int, str, str, int, bool]
"""Microseconds before a request, then its replica, user, API, cost, and whether it is a dry run."""


class World:
    """Two replicas over a store, and a policy of up to three tiers."""

    def __init__(self, **limits: Limit) -> None:
        self.store = Store()
        self.limits = {tier: limits[tier] for tier in ("everyone", "user", "user_api") if tier in limits}
        self.clocks_differ_us = 0
        self.replicas = [DenyCache(self.store, now_us=self.local_us) for _ in range(2)]

    def local_us(self) -> int:
        """Returns the time of the replicas' clock."""
        return self.store.now_us + self.clocks_differ_us

    def request(self, user: str, api: str, cost: int = 1, *, dry_run: bool = False) -> TakeRequest:
        """Returns a request of a user to an API."""
        keys = {"everyone": "global", "user": user, "user_api": f"{user}:{api}"}
        limits = {keys[tier]: limit for tier, limit in self.limits.items()}
        shadow = {f"shadow:{user}": Limit(1, 0.001)}
        return take_request(limits, cost * MICRO, shadow, dry_run=dry_run)

    async def send(self, user: str, apis: str, cost: int = 1, *, replica: int = 0) -> list[int | None]:
        """Sends a request for each letter of `apis`. Returns each `retry-after`, 0 for an allowed one."""
        waits = []
        for api in apis:
            request = self.request(user, api, cost)
            outcome = await self.replicas[replica].take(request)
            waits.append(0 if outcome.allowed else retry_after_s(request, outcome))
        return waits

    async def is_local(self, user: str, api: str, cost: int = 1) -> bool:
        """Returns whether the first replica denies this request without a call to the store."""
        calls = self.store.calls
        outcome = await self.replicas[0].take(self.request(user, api, cost))
        return self.store.calls == calls and not outcome.allowed

    async def check(self, steps: list[Step]) -> None:
        """Sends requests, and checks each denial."""
        for gap_us, replica, user, api, cost, dry_run in steps:
            self.store.now_us += gap_us
            request, calls = self.request(user, api, cost, dry_run=dry_run), self.store.calls
            outcome = await self.replicas[replica].take(request)
            if not outcome.allowed:
                buckets, now_us = self.store.buckets, self.store.now_us
                if self.store.calls == calls:
                    assert not charge_buckets(buckets, request, now_us)[0].allowed
                assert is_allowed_after_the_wait(request, outcome, buckets, now_us)


PER_MINUTE = 1 / 60


async def test_a_bucket_that_was_never_counted_may_need_a_longer_wait() -> None:
    world = World(user=Limit(5, 6 * PER_MINUTE), user_api=Limit(3, PER_MINUTE))
    assert await world.send("u", "BBBAAAB") == [0, 0, 0, 0, 0, 10, 60]
    assert await world.is_local("u", "B")


async def test_an_empty_global_bucket_does_not_hide_a_slower_bucket() -> None:
    """A user whose own bucket has tokens is asked about once a second, and then denied locally."""
    world = World(everyone=Limit(5, 1.0), user=Limit(3, PER_MINUTE))
    assert await world.send("u", "AAA") == [0, 0, 0]
    assert await world.send("v", "AAA") == [0, 0, 1]
    assert await world.send("u", "A") == [60]
    assert await world.send("w", "A") == [1]
    for user in "uvw":
        assert await world.is_local(user, "A")


async def test_a_new_user_is_denied_locally_where_every_bucket_refills_fast_enough() -> None:
    world = World(everyone=Limit(1, 1.0), user=Limit(3, 1.0), user_api=Limit(2, 100.0))
    assert await world.send("u", "AA") == [0, 1]
    assert await world.is_local("v", "A")
    world.store.now_us += MICRO // 2
    assert await world.is_local("v", "B")


async def test_a_wide_bucket_may_have_been_spent_from_since_its_count() -> None:
    """Also on another replica. The user's bucket held two tokens when the one for API A was denied."""
    for replica in (0, 1):
        world = World(user=Limit(5, PER_MINUTE), user_api=Limit(3, 6 * PER_MINUTE))
        assert await world.send("u", "AAAA") == [0, 0, 0, 10]
        assert await world.send("u", "BB", replica=replica) == [0, 0]
        assert await world.send("u", "A") == [60]


async def test_a_narrow_bucket_keeps_its_tokens_while_a_wide_one_is_empty() -> None:
    world = World(user=Limit(2, 6 * PER_MINUTE), user_api=Limit(2, PER_MINUTE))
    assert await world.send("u", "ABA") == [0, 0, 10]
    assert await world.is_local("u", "A")
    world.store.now_us += MICRO // 2
    assert await world.is_local("u", "A")


async def test_a_cheaper_request_may_have_spent_what_an_expensive_one_could_not() -> None:
    """The bucket holds 2 tokens, of which a request of cost 1 takes one after the denial of a cost of 3."""
    for replica in (0, 1):
        world = World(user=Limit(5, PER_MINUTE))
        assert await world.send("u", "A", cost=3) == [0]
        assert await world.send("u", "A", cost=3) == [60]
        assert await world.send("u", "B", replica=replica) == [0]
        assert await world.send("u", "A", cost=3) == [120]


async def test_less_than_a_token_cannot_be_spent() -> None:
    """So a denial at any cost is repeated locally, although it is far from what the cost needs."""
    world = World(user=Limit(3, PER_MINUTE))
    assert await world.send("u", "AA", cost=3) == [0, 180]
    world.store.now_us += 3 * MICRO // 4
    assert await world.is_local("u", "A", cost=3)
    assert await world.is_local("u", "A", cost=2)
    assert await world.is_local("u", "A", cost=1)


async def test_a_denial_is_not_reused_beyond_the_instant_at_which_its_bucket_can_be_spent_from() -> None:
    """At that instant the bucket gets the token that a cheaper request can take."""
    world = World(user=Limit(3, PER_MINUTE))
    world.store.buckets["u"] = Bucket(MICRO - 200, world.store.now_us)
    assert await world.send("u", "A", cost=3) == [121]
    assert await world.is_local("u", "A", cost=3)
    world.store.now_us += RECOUNT_US // 2
    assert await world.send("u", "A", cost=3) == [121]
    world.store.now_us += RECOUNT_US - 1
    assert await world.send("u", "B", replica=1) == [0]
    assert await world.send("u", "A", cost=3) == [180]


async def test_a_request_that_is_always_denied_is_denied_locally() -> None:
    """Its cost exceeds a capacity, so its denial has no wait that another bucket could make too short."""
    world = World(everyone=Limit(5, PER_MINUTE), user=Limit(1, 1.0))
    assert await world.send("u", "A", cost=2) == [None]
    assert await world.is_local("u", "A", cost=2)


async def test_a_wide_bucket_with_many_tokens_is_not_asked_about_at_each_denial() -> None:
    """It cannot have been emptied since its count, so a hot user costs few calls to the store."""
    many = SPENT_AT_ONCE // MICRO + 200_000
    world = World(user=Limit(many, 0.001), user_api=Limit(1, 0.001))
    assert await world.send("u", "AA") == [0, 1000]
    calls = world.store.calls
    for _ in range(1000):
        world.store.now_us += 1000
        assert not (await world.replicas[0].take(world.request("u", "A"))).allowed
    assert world.store.calls - calls <= 5


async def test_a_denial_by_a_bucket_with_its_last_in_the_future_is_not_kept() -> None:
    """The bucket holds 2 tokens, which a cheaper request gets."""
    world = World(user=Limit(5, 1.0))
    world.store.buckets["u"] = Bucket(2 * MICRO, world.store.now_us + 600 * MICRO)
    assert await world.send("u", "A", cost=3) == [601]
    assert not await world.is_local("u", "A", cost=3)
    assert await world.send("u", "AAA") == [0, 0, 601]


RATES = st.one_of(
    st.sampled_from([0.000001, 1 / 600, PER_MINUTE, 0.1, 0.5, 1.0, 3.7, 50.0]), st.floats(0.001, 1000)
)
LIMITS = st.builds(Limit, st.integers(1, 6), RATES)
POLICIES = st.fixed_dictionaries({}, optional=dict.fromkeys(("everyone", "user", "user_api"), LIMITS)).filter(
    bool
)
GAPS_US = st.one_of(
    st.just(0), st.integers(0, 2 * RECOUNT_US), st.integers(0, MICRO), st.integers(0, 120 * MICRO)
)
STEPS = st.lists(
    st.tuples(
        GAPS_US,
        st.integers(0, 1),
        st.sampled_from("uv"),
        st.sampled_from("AB"),
        st.sampled_from([1, 1, 1, 2, 3]),
        st.booleans(),
    ),
    min_size=4,
    max_size=30,
)


@settings(max_examples=3 * settings().max_examples)
@given(POLICIES, STEPS, STEPS, st.integers(0, 1000 * MICRO))
async def test_obeying_the_wait_of_any_denial_once_is_enough(
    policy: dict[str, Limit], steps: list[Step], later: list[Step], step_back_us: int
) -> None:
    """The store would also have denied, at that instant, every request that a replica denies locally.

    This also holds once the store's clock has stepped back, except for older denials, which expire.
    """
    world = World(**policy)
    await world.check(steps)
    world.store.now_us -= step_back_us
    world.clocks_differ_us += step_back_us + TRUST_US + 1
    await world.check(later)
