"""Tests of the arithmetic of token buckets."""

from fractions import Fraction
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.bucket import EXPIRY_MARGIN_US, Bucket, charge_buckets, expiry_ms, refill, wait_us
from ratelimitd.core.model import MICRO, Limit, TakeRequest
from tests.core.take_requests import take_request

RATES = st.decimals("0.000001", 1000, places=6)
CAPACITIES = st.integers(1, 4000)
GAPS_US = st.integers(-5 * MICRO, 5 * MICRO)
NOW = 1_800_000_000_000_000


def one_tier(limit: Limit, cost: int = MICRO, key: str = "k") -> TakeRequest:
    """Returns a request on a single bucket."""
    return take_request({key: limit}, cost)


def test_an_unknown_bucket_is_full() -> None:
    assert refill(None, Limit(3, 1.0), NOW) == Bucket(3 * MICRO, NOW)


def test_tokens_refill_at_the_refill_rate() -> None:
    assert refill(Bucket(0, NOW), Limit(3, 0.5), NOW + 3 * MICRO).tokens == 1.5 * MICRO


def test_a_backward_clock_step_leaves_the_bucket_unchanged() -> None:
    """`last` stays at the later instant, so no interval is credited twice."""
    assert refill(Bucket(0, NOW), Limit(3, 1.0), NOW - MICRO) == Bucket(0, NOW)


def test_a_lowered_capacity_caps_the_tokens_at_once() -> None:
    assert refill(Bucket(10 * MICRO, NOW), Limit(4, 1.0), NOW).tokens == 4 * MICRO


def test_a_request_charges_all_tiers_or_none() -> None:
    rich, poor = Limit(5, 1.0), Limit(1, 1.0)
    request = take_request({"rich": rich, "poor": poor})
    first, buckets = charge_buckets({}, request, NOW)
    second, untouched = charge_buckets(buckets, request, NOW)
    assert (first.allowed, first.tokens) == (True, (4 * MICRO, 0))
    assert (second.allowed, second.tokens, untouched) == (False, (4 * MICRO, 0), {})


@given(CAPACITIES, RATES, st.lists(st.tuples(GAPS_US, st.integers(1, 3 * MICRO)), max_size=60))
def test_no_window_admits_more_than_capacity_plus_refill(
    capacity: int, rate: Fraction, steps: list[tuple[int, int]]
) -> None:
    """Between any two admitted requests, the admitted cost is at most capacity + refill_rate * time."""
    limit = Limit(capacity, float(rate))
    buckets: dict[str, Bucket] = {}
    now, latest = NOW, 0
    admitted: list[tuple[int, int]] = []
    for gap, cost in steps:
        now += gap
        latest = max(latest, now)
        outcome, changed = charge_buckets(buckets, one_tier(limit, cost), now)
        buckets |= changed
        (tokens,) = outcome.tokens
        assert tokens is not None
        assert tokens <= limit.capacity_micro
        assert tokens >= 0 or outcome.refill_withheld
        if outcome.allowed:
            admitted.append((latest, cost))
    totals = [0, *accumulate(cost for _, cost in admitted)]
    for first, (begin, _) in enumerate(admitted):
        for after, (end, _) in enumerate(admitted[first:], start=first + 1):
            spent = totals[after] - totals[first]
            assert spent <= limit.capacity_micro + Fraction(rate) * (end - begin)


@given(CAPACITIES, RATES, st.integers(0, 4000 * MICRO), st.integers(1, MICRO * 10))
def test_the_wait_is_the_shortest_that_suffices(
    capacity: int, rate: Fraction, tokens: int, needed: int
) -> None:
    """After `wait_us` the bucket holds the tokens needed; one microsecond earlier it does not."""
    limit = Limit(capacity, float(rate))
    tokens, needed = min(tokens, limit.capacity_micro), min(needed, limit.capacity_micro)
    wait = wait_us(needed - tokens, limit.refill_rate)
    assert refill(Bucket(tokens, NOW), limit, NOW + wait).tokens >= needed
    assert wait == 0 or refill(Bucket(tokens, NOW), limit, NOW + wait - 1).tokens < needed


@given(CAPACITIES, RATES, st.integers(0, 4000 * MICRO), st.integers(0, 5 * MICRO))
def test_a_key_expires_when_its_bucket_has_been_full_for_the_margin(
    capacity: int, rate: Fraction, tokens: int, clock_behind_us: int
) -> None:
    """The key expires at most one millisecond later than that."""
    limit = Limit(capacity, float(rate))
    bucket = Bucket(min(tokens, limit.capacity_micro), NOW)
    now = NOW - clock_behind_us
    full_at = now + expiry_ms(bucket, limit, now) * 1000 - EXPIRY_MARGIN_US
    assert refill(bucket, limit, full_at).tokens >= limit.capacity_micro - 1
    assert bucket.tokens + (full_at - 1000 - NOW) * Fraction(rate) <= limit.capacity_micro
