"""Tests of requests that leased tokens pay for."""

import asyncio
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.bucket import EXPIRY_MARGIN_US
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.lease import FAIR_PART, MAX_LEASE_US, MIN_LEASE_US, Leases, LeaseTerms, lease_terms
from ratelimitd.core.model import MICRO, Charge, Limit, Outcome, TakeRequest
from ratelimitd.decider import limiter_over
from ratelimitd.errors import StoreError
from ratelimitd.limiter.deny_cache import DenyCache
from ratelimitd.limiter.leased_limiter import LeasedLimiter
from ratelimitd.limiter.leased_takes import LeasePool
from ratelimitd.limiter.split_limiter import SplitLimiter
from tests.core.fakes import OracleLimiter

GLOBAL = Limit(1000, 1000.0)
USER = Limit(100, 1.0)
KEYS = ("rate:global", "rate:user:alice")


def terms_of(limit: Limit) -> LeaseTerms:
    """Returns how a bucket with this limit is leased."""
    terms = lease_terms(limit)
    assert terms is not None
    return terms


TERMS = terms_of(GLOBAL)


class Store(OracleLimiter):
    """Counts the takes of each combination of keys, and fails them on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.takes: list[tuple[str, ...]] = []
        self.requests: list[TakeRequest] = []
        self.fails: set[str] = set()
        self.loses_leases = False

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome. Raises StoreError if a key fails, or if the reply to a lease is lost."""
        self.takes.append(request.keys)
        self.requests.append(request)
        if self.fails & set(request.keys):
            raise StoreError("away")
        outcome = await super().take(request)
        if self.loses_leases and request.charge.for_lease:
            raise StoreError("lost")
        return outcome

    def tokens(self, key: str) -> float:
        """Returns the tokens that a bucket held after its last charge."""
        return self.buckets[key].tokens / MICRO


class Replica:
    """A replica over a store, with its lease."""

    def __init__(self, store: Store, *, split: bool = False) -> None:
        self.store = store
        self.pool = LeasePool(lambda: store.now_us)
        takes = SplitLimiter(store, self.pool) if split else store
        self.limiter = LeasedLimiter(DenyCache(takes, now_us=lambda: store.now_us), store, self.pool)
        self.leases = self.pool.of(KEYS[0], GLOBAL, TERMS)

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome of a request, once the lease that it asked for is there."""
        outcome = await self.limiter.take(request)
        for _ in range(3):
            await asyncio.sleep(0)
        return outcome

    async def warm(self, requests: int = 40) -> None:
        """Makes requests until the lease has some tokens."""
        for _ in range(requests):
            self.store.now_us += 1000
            await self.take(REQUEST)
        assert self.leases.held >= 3 * MICRO
        self.store.takes.clear()


def request(
    cost: int = 1,
    limits: Sequence[Limit] = (GLOBAL, USER),
    shadow: Sequence[Limit] = (),
    keys: tuple[str, ...] = KEYS,
    *,
    dry_run: bool = False,
) -> TakeRequest:
    """Returns a request whose bucket `rate:global` is leased."""
    charge = Charge(cost * MICRO, tuple(limits), tuple(shadow), leased=keys.index(KEYS[0]))
    return TakeRequest(charge, keys, dry_run)


REQUEST = request(limits=(GLOBAL, Limit(100_000, 1.0)), keys=(KEYS[0], "rate:user:warm"))


@pytest.fixture(params=[False, True], ids=["together", "split"])
def replica(request: pytest.FixtureRequest) -> Replica:
    """A replica whose global bucket shares a call with the others, or does not."""
    return Replica(Store(), split=request.param)


async def test_a_lease_pays_without_the_bucket(replica: Replica) -> None:
    await replica.warm()
    left = replica.store.tokens(KEYS[0]), replica.leases.held
    outcome = await replica.take(request())
    assert outcome.allowed
    assert replica.store.takes == [KEYS[1:]]
    assert (replica.store.tokens(KEYS[0]), replica.leases.held) == (left[0], left[1] - MICRO)
    assert outcome.tokens == (replica.leases.level + replica.leases.held, 99 * MICRO)


async def test_the_tokens_left_do_not_count_what_others_took_since_the_lease(replica: Replica) -> None:
    """So they may be too many, but by no more than the bucket held then. The next count corrects them."""
    await replica.warm()
    level = replica.leases.level
    other = request(800, (GLOBAL, Limit(5000, 1.0)), keys=(KEYS[0], "rate:user:other"))
    await replica.store.take(other)
    outcome = await replica.take(request())
    left = outcome.tokens[0]
    assert left is not None
    truth = replica.store.buckets[KEYS[0]].tokens + replica.leases.held
    assert 0 < left - truth <= level
    await replica.take(request(100, (GLOBAL, Limit(5000, 1.0))))
    assert replica.leases.level == replica.store.buckets[KEYS[0]].tokens


async def test_most_requests_do_not_touch_the_bucket(replica: Replica) -> None:
    await replica.warm()
    for _ in range(200):
        replica.store.now_us += 1000
        await replica.take(REQUEST)
    assert sum(KEYS[0] in keys for keys in replica.store.takes) < 20


async def test_a_denial_of_another_tier_gives_the_tokens_back(replica: Replica) -> None:
    await replica.warm()
    await replica.take(request(100))
    held = replica.leases.held
    denied = await replica.take(request())
    assert (denied.allowed, denied.tokens[1]) == (False, 0)
    assert replica.leases.held == held


async def test_a_failure_of_the_store_gives_the_tokens_back(replica: Replica) -> None:
    await replica.warm()
    held = replica.leases.held
    replica.store.fails = {KEYS[1]}
    with pytest.raises(StoreError):
        await replica.take(request())
    assert replica.leases.held == held


async def test_tokens_that_came_back_expire_with_their_lease(replica: Replica) -> None:
    await replica.warm()
    replica.store.fails = {KEYS[1]}
    with pytest.raises(StoreError):
        await replica.take(request())
    replica.store.fails = set()
    replica.store.now_us += MAX_LEASE_US
    await replica.take(request())
    assert KEYS[0] in {key for keys in replica.store.takes[1:] for key in keys}


async def test_leased_tokens_are_counted(replica: Replica) -> None:
    """What was leased has been spent or is held, until it expires."""
    await replica.warm()
    counts, held = replica.pool.counts, replica.leases.held
    assert counts.leased == counts.spent + held > 0
    before = counts.leased, counts.spent
    await replica.take(request(2))
    assert (counts.leased, counts.spent) == (before[0], before[1] + 2 * MICRO)
    await replica.take(request(dry_run=True))
    assert not (await replica.take(request(1, (GLOBAL, Limit(1, 0.01)), keys=(KEYS[0], "rate:user:x")))).local
    assert not (
        await replica.take(request(1, (GLOBAL, Limit(1, 0.01)), keys=(KEYS[0], "rate:user:x")))
    ).allowed
    assert counts.spent == before[1] + 3 * MICRO


async def test_only_the_take_of_a_lease_is_marked_as_one(replica: Replica) -> None:
    """Its failure is not counted as that of a request."""
    for _ in range(40):
        replica.store.now_us += 1000
        await replica.take(REQUEST)
    charges = [one.charge for one in replica.store.requests]
    leases = [charge for charge in charges if charge.for_lease]
    assert {(charge.limits, charge.shadow, charge.leased) for charge in leases} == {
        ((TERMS.limit,), (), None)
    }
    singles = [charge for charge in charges if not charge.for_lease]
    assert {charge.cost for charge in singles} == {MICRO} < {charge.cost for charge in charges}


async def test_a_lease_whose_reply_is_lost_cannot_be_spent(replica: Replica) -> None:
    """The store may have taken the tokens or not, so they are lost, and requests take their own."""
    replica.store.loses_leases = True
    for _ in range(40):
        replica.store.now_us += 1000
        assert (await replica.take(REQUEST)).allowed
    assert any(one.charge.for_lease for one in replica.store.requests)
    singles = [one for one in replica.store.requests if KEYS[0] in one.keys and not one.charge.for_lease]
    assert len(singles) == 40
    assert (replica.leases.held, replica.pool.counts.leased, replica.pool.counts.spent) == (0, 0, 0)


async def test_a_dry_run_takes_nothing(replica: Replica) -> None:
    await replica.warm()
    before = dict(replica.store.buckets), replica.leases.held
    for cost in (1, 3, 500, 2000):
        outcome = await replica.take(request(cost, (GLOBAL, Limit(5000, 1.0)), dry_run=True))
        assert outcome.allowed == (cost < 1000)
    assert (dict(replica.store.buckets), replica.leases.held) == before


async def test_a_denied_dry_run_adds_nothing_to_the_lease(replica: Replica) -> None:
    """It took no token that could be given back."""
    denied = await replica.take(request(2, (GLOBAL, Limit(1, 0.01)), dry_run=True))
    assert not denied.allowed
    assert (replica.leases.held, replica.pool.counts.leased) == (0, 0)


async def test_without_a_lease_the_store_decides_as_before(replica: Replica) -> None:
    """A denial by the global bucket reports the tokens of all tiers, and changes no bucket."""
    assert (await replica.take(request(750, (GLOBAL, Limit(5000, 1.0))))).allowed
    before = dict(replica.store.buckets)
    denied = await replica.take(request(300, (GLOBAL, Limit(5000, 1.0))))
    assert not denied.allowed
    assert denied.tokens == (before[KEYS[0]].tokens, 4250 * MICRO)
    assert replica.store.buckets == before


async def test_denied_requests_cause_no_lease(replica: Replica) -> None:
    """A client that its own bucket denies cannot empty the bucket that all requests share."""
    await replica.take(request(100))
    for _ in range(1000):
        replica.store.now_us += 10
        assert not (await replica.take(request())).allowed
    assert replica.store.tokens(KEYS[0]) + replica.leases.held / MICRO >= 875 - 100


@pytest.mark.parametrize("others_pay", [True, False])
async def test_shadow_is_charged_all_or_none(replica: Replica, *, others_pay: bool) -> None:
    """In shadow, too, the lease pays only if the other buckets in shadow can."""
    keys = ("rate:user:alice", KEYS[0], "rate:shadow:user:alice")
    other = Limit(1000 if others_pay else 1, 0.01)
    for _ in range(40):
        replica.store.now_us += 1000
        outcome = await replica.take(request(2, (Limit(1000, 1.0),), (GLOBAL, other), keys))
        assert outcome.allowed
        assert outcome.shadow is not None
        assert outcome.shadow.allowed == others_pay
    held = replica.leases.held / MICRO
    if others_pay:
        assert replica.store.tokens(KEYS[0]) + held <= 920
    else:
        assert KEYS[0] not in replica.store.buckets or replica.store.tokens(KEYS[0]) + held >= 875 - 2


async def test_shadow_tiers_that_deny_leave_the_lease_charged(replica: Replica) -> None:
    """The request is allowed, so its leased tokens are spent."""
    await replica.warm()
    held = replica.leases.held
    keys = (*KEYS, "rate:shadow:user:alice")
    outcome = await replica.take(request(2, (GLOBAL, USER), (Limit(1, 1.0),), keys))
    assert outcome.allowed
    assert outcome.shadow is not None
    assert not outcome.shadow.allowed
    assert replica.leases.held == held - 2 * MICRO


async def test_a_failure_of_the_bucket_in_shadow_denies_nothing() -> None:
    replica = Replica(Store(), split=True)
    replica.store.fails = {KEYS[0]}
    keys = ("rate:user:alice", KEYS[0], "rate:shadow:user:alice")
    outcome = await replica.take(request(1, (USER,), (GLOBAL, USER), keys))
    assert (outcome.allowed, outcome.shadow) == (True, None)
    assert list(replica.store.buckets) == ["rate:user:alice"]


async def test_a_request_that_a_lease_can_pay_is_not_denied_locally(replica: Replica) -> None:
    await replica.warm()
    everything = request(int(replica.store.tokens(KEYS[0])) + 1, keys=(KEYS[0], "rate:user:bob"))
    denied = await replica.take(everything)
    assert not denied.allowed
    assert (await replica.take(request())).allowed


async def test_a_bucket_that_is_too_small_is_never_leased() -> None:
    assert lease_terms(Limit(1, 0.01)) is None
    assert lease_terms(Limit(7, 100.0)) is None
    assert lease_terms(Limit(1000, 1.9)) is None
    assert lease_terms(Limit(100, 10_000.0)) is None
    assert lease_terms(Limit(8, 2.0)) is not None


@given(st.integers(1, 10**9), st.floats(0.000001, 10**9))
def test_the_reserve_refills_while_a_lease_can_be_spent(capacity: int, rate: float) -> None:
    """That is so although the clock of a replica is slower than the store's by a hundredth."""
    terms = lease_terms(Limit(capacity, rate))
    if terms is not None:
        reserve = capacity - terms.limit.capacity
        assert 1 <= reserve <= capacity / 8
        assert terms.usable_us * Fraction("1.0101") * Fraction(rate) <= reserve * MICRO
        assert MIN_LEASE_US * 0.98 <= terms.usable_us <= MAX_LEASE_US <= EXPIRY_MARGIN_US


@pytest.mark.parametrize("split", [False, True])
async def test_a_tiny_bucket_stays_exact(*, split: bool) -> None:
    """It admits its capacity, and a request that its user's bucket denies takes nothing from it."""
    replica, tiny = Replica(Store(), split=split), Limit(2, 0.01)
    one = request(1, (tiny, Limit(1, 0.01)))
    outcomes = [await replica.take(one) for _ in range(3)]
    assert [outcome.allowed for outcome in outcomes] == [True, False, False]
    assert replica.store.tokens(KEYS[0]) == 1
    other = request(1, (tiny, Limit(1, 0.01)), keys=(KEYS[0], "rate:user:bob"))
    assert (await replica.take(other)).allowed


async def test_a_changed_limit_drops_the_lease(replica: Replica) -> None:
    await replica.warm()
    await replica.take(request(1, (Limit(2000, 1000.0), USER)))
    assert replica.store.takes in ([KEYS], [KEYS[:1], KEYS[1:]])


@pytest.mark.parametrize("tagged", [False, True])
async def test_a_reset_and_a_new_policy_drop_the_lease(*, tagged: bool) -> None:
    """The next request takes from the bucket, which may have been deleted since."""
    store = Store()
    pool = LeasePool(lambda: store.now_us)
    limiter, forget = limiter_over(KeyLayout("rate", tagged=tagged), store, store, pool)
    pool.of(KEYS[0], GLOBAL, TERMS).granted(5 * MICRO, store.now_us, 900 * MICRO)
    await limiter.take(request())
    assert store.takes == [KEYS[1:]]
    forget()
    assert pool.of(KEYS[0], GLOBAL, TERMS).held == 0
    await limiter.take(request())
    assert KEYS[0] in {key for keys in store.takes[1:] for key in keys}


async def test_one_lease_is_asked_for_at_a_time_and_not_again_at_once_after_a_failure() -> None:
    store = Store()
    leases = Leases(GLOBAL, TERMS)
    for _ in range(50):
        leases.charged(MICRO, store.now_us)
    assert leases.ask(store.now_us) == 50 * MICRO
    assert not leases.ask(store.now_us)
    leases.failed(store.now_us)
    leases.charged(MICRO, store.now_us)
    assert not leases.ask(store.now_us)
    later_us = store.now_us + TERMS.usable_us // 2
    leases.charged(MICRO, later_us)
    assert leases.ask(later_us) == 51 * MICRO


async def test_a_lease_is_at_most_a_fair_part_of_what_is_left() -> None:
    leases = Leases(GLOBAL, TERMS)
    for _ in range(500):
        leases.charged(MICRO, 0)
    leases.counted(80 * MICRO)
    assert leases.ask(0) == 80 // FAIR_PART * MICRO
    leases.refused(87 * MICRO)
    assert leases.ask(0) == 87 // FAIR_PART * MICRO  # whole tokens
    leases.refused(9 * MICRO)
    assert not leases.ask(0)


async def test_a_lease_is_renewed_at_a_quarter_and_then_completed() -> None:
    """It holds as much as was charged, and never more."""
    leases = Leases(GLOBAL, TERMS)
    leases.granted(20 * MICRO, 0, 900 * MICRO)
    for _ in range(40):
        leases.charged(MICRO, 0)
    assert not leases.ask(0)
    leases.spend(10 * MICRO, 0)
    assert leases.ask(0) == 30 * MICRO


async def test_a_lease_after_a_pause_does_not_count_the_traffic_before_it() -> None:
    leases = Leases(GLOBAL, TERMS)
    for _ in range(40):
        leases.charged(MICRO, 0)
    for _ in range(3):
        leases.charged(MICRO, TERMS.usable_us)
    assert leases.ask(TERMS.usable_us) == 3 * MICRO


async def test_a_lease_that_is_spent_leaves_the_next_one_with_its_own_end() -> None:
    leases = Leases(GLOBAL, TERMS)
    leases.granted(2 * MICRO, 0, 0)
    leases.granted(2 * MICRO, 1000, 0)
    assert leases.spend(2 * MICRO, 2000) == TERMS.usable_us
    assert leases.spend(MICRO, 2000) == TERMS.usable_us + 1000


async def test_tokens_can_be_spent_in_the_last_microsecond_of_their_lease() -> None:
    leases = Leases(GLOBAL, TERMS)
    leases.granted(MICRO, 0, 0)
    assert leases.can_spend(MICRO, TERMS.usable_us)
    assert not leases.can_spend(MICRO, TERMS.usable_us + 1)


async def test_a_cost_may_be_paid_from_several_leases() -> None:
    leases = Leases(GLOBAL, TERMS)
    leases.granted(2 * MICRO, 0, 0)
    leases.granted(2 * MICRO, 1000, 0)
    assert leases.spend(3 * MICRO, 2000) == TERMS.usable_us
    assert leases.held == MICRO
    leases.give_back(3 * MICRO, TERMS.usable_us)
    assert not leases.can_spend(4 * MICRO, TERMS.usable_us + 1)
    assert leases.held == MICRO
