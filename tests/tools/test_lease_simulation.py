"""Tests of the simulation of leases, with few replicas."""

import pytest

from bench.lease_simulation import Load, Run, table
from ratelimitd.core.model import Limit

LIMIT = Limit(400, 400.0)
OVER = Load("three times the limit", 2, lambda _replica, _second: 240, 5, LIMIT)
STOPPING = Load("half of the limit for 1 s, then nothing", 2, lambda _, s: 0 if s else 40, 5, LIMIT)


@pytest.mark.parametrize("load", [OVER, STOPPING])
@pytest.mark.parametrize("leasing", [False, True])
def test_no_window_admits_more_than_the_law(load: Load, *, leasing: bool) -> None:
    result = Run(load, leasing=leasing).result()
    capacity, rate = load.limit
    assert 0 < result.burst <= capacity
    assert result.admitted <= min(result.requests, capacity + rate * load.seconds)
    assert (result.leased > 0) == leasing


def test_leases_admit_what_the_bucket_had_but_for_the_reserve() -> None:
    without, leasing = (Run(OVER, leasing=leasing).result() for leasing in (False, True))
    assert without.admitted >= without.burst >= LIMIT.capacity - 1
    assert without.admitted - leasing.admitted <= LIMIT.capacity // 8 + leasing.expired


def test_tokens_that_are_leased_when_the_traffic_stops_are_reported_as_expired() -> None:
    without, leasing = (Run(STOPPING, leasing=leasing).result() for leasing in (False, True))
    assert 0 < leasing.expired < leasing.leased
    assert leasing.takes < without.takes == without.requests
    (row,) = table("few replicas", (STOPPING,)).rows
    assert row[2] == "100.00%"
    assert row[5] == f"{leasing.expired / leasing.leased:.1%}"
