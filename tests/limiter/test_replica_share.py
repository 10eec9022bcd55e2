"""Tests of the buckets behind the outage answer `local`: the shares of a limit, and their law."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimitd.core.model import MICRO, Limit
from ratelimitd.limiter.replica_share import ReplicaShare, share_of
from tests.core.take_requests import take_request


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_us = 0

    def __call__(self) -> int:
        return self.now_us


@pytest.mark.parametrize(
    ("limit", "replicas", "cost", "share"),
    [
        (Limit(9, 3.0), 3, 1, Limit(3, 1.0)),
        (Limit(10, 1.0), 3, 1, Limit(4, 1 / 3)),
        (Limit(2, 1.0), 3, 1, Limit(1, 1 / 3)),
        (Limit(10, 1.0), 1, 1, Limit(10, 1.0)),
        (Limit(10, 1.0), 4, 5, Limit(5, 0.25)),
        (Limit(10, 1.0), 4, 11, Limit(3, 0.25)),
    ],
    ids=["even", "rounded up", "at least one", "alone", "at least the cost", "a cost beyond the limit"],
)
def test_a_share(limit: Limit, replicas: int, cost: int, share: Limit) -> None:
    assert share_of(limit, cost * MICRO, replicas) == share


@given(
    replicas=st.integers(1, 7),
    capacity=st.integers(1, 40),
    rate=st.decimals("0.001", 50, places=3).map(float),
    steps=st.lists(st.tuples(st.integers(0, 2 * MICRO), st.integers(0, 6)), max_size=80),
)
def test_all_replicas_together_obey_the_law_of_shares(
    replicas: int, capacity: int, rate: float, steps: list[tuple[int, int]]
) -> None:
    limit, clock = Limit(capacity, rate), Clock()
    shares = [ReplicaShare(lambda: replicas, now_us=clock) for _ in range(replicas)]
    request = take_request({"k": share_of(limit, MICRO, replicas)})
    admitted = []
    for gap_us, number in steps:
        clock.now_us += gap_us
        if shares[number % replicas].take(request).allowed:
            admitted.append(clock.now_us)
    for first, start_us in enumerate(admitted):
        for count, end_us in enumerate(admitted[first:], start=1):
            bound = capacity + replicas - 1 + Fraction(rate) * Fraction(end_us - start_us, MICRO)
            assert count <= bound * (1 + Fraction(1, 10**12))


def test_the_least_recently_used_bucket_is_forgotten_first() -> None:
    """A denial counts as a use, so that a user without tokens does not get a new bucket."""
    share = ReplicaShare(lambda: 1, now_us=Clock(), max_buckets=2)
    requests = {key: take_request({key: Limit(1, 0.001)}) for key in "abc"}
    assert share.take(requests["a"]).allowed
    assert share.take(requests["b"]).allowed
    assert not share.take(requests["a"]).allowed
    assert share.take(requests["c"]).allowed
    assert not share.take(requests["a"]).allowed
    assert share.take(requests["b"]).allowed
