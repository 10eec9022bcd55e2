"""What the batcher counts: calls, their size and duration, and the decisions that failed."""

import asyncio

import pytest

from ratelimitd.core.model import MICRO, Charge, Limit, TakeRequest
from ratelimitd.errors import StoreConnectionError, StoreError, StoreRefusedError, StoreReplyError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.telemetry.histogram import BOUNDS_NS
from ratelimitd.telemetry.store_calls import REASONS, StoreCalls
from tests.limiter.stepped_loops import on_stepped_loop, stall
from tests.limiter.test_batcher import HeldLimiter, run_ready_tasks, start_callers, take_request_for


async def test_a_call_that_returns_outcomes_counts_with_its_size_and_duration() -> None:
    calls, limiter, now_ns = StoreCalls(), HeldLimiter(), 5_000_000_000
    async with Batcher(limiter, timeout_s=30, calls=calls, now_ns=lambda: now_ns) as batcher:
        for size in (1, 3, 3):
            callers = start_callers(batcher, range(size))
            await run_ready_tasks()
            now_ns += 150_000
            limiter.answer_all()
            await asyncio.wait(callers)
    assert calls.batch_sizes == {1: 1, 3: 2}
    assert calls.seconds.sum_ns == 3 * 150_000
    assert calls.seconds.counts[BOUNDS_NS.index(200_000)] == sum(calls.seconds.counts) == 3
    assert calls.errors == {}


@pytest.mark.parametrize(
    "error", [StoreConnectionError("x"), StoreRefusedError("x"), StoreReplyError("x"), ValueError("x")]
)
async def test_a_call_that_fails_counts_each_of_its_decisions_by_reason(error: Exception) -> None:
    calls, limiter = StoreCalls(), HeldLimiter()
    async with Batcher(limiter, timeout_s=30, calls=calls) as batcher:
        callers = start_callers(batcher, range(3))
        await run_ready_tasks()
        limiter.fail_first(error)
        await asyncio.wait(callers)
    assert [type(caller.exception()) for caller in callers] == [type(error)] * 3
    assert calls.errors == {getattr(error, "reason", "other"): 3}
    assert sum(calls.seconds.counts) == 0


async def test_a_lease_that_fails_is_not_a_failed_decision() -> None:
    """A defect counts nevertheless."""
    calls, limiter = StoreCalls(), HeldLimiter()
    async with Batcher(limiter, timeout_s=30, calls=calls) as batcher:
        for error in (StoreConnectionError("x"), ValueError("x")):
            charge = Charge(5 * MICRO, (Limit(8, 1.0),), for_lease=True)
            lease = asyncio.ensure_future(batcher.take(TakeRequest(charge, ("1",))))
            await run_ready_tasks()
            limiter.fail_first(error)
            with pytest.raises(type(error)):
                await lease
    assert calls.errors == {"other": 1}


@on_stepped_loop
async def test_a_decision_that_times_out_counts_once_although_its_call_ends_later() -> None:
    calls, limiter = StoreCalls(), HeldLimiter()
    async with Batcher(limiter, timeout_s=30, calls=calls) as batcher:
        callers = start_callers(batcher, range(2))
        await run_ready_tasks()
        stall(30)
        await asyncio.wait(callers)
        limiter.fail_first(StoreConnectionError("x"))
        await run_ready_tasks()
    assert [type(caller.exception()).__name__ for caller in callers] == ["StoreTimeoutError"] * 2
    assert calls.errors == {"timeout": 2}


async def test_a_decision_beyond_the_queue_limit_counts_as_overload() -> None:
    calls, limiter = StoreCalls(), HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_waiting=1, calls=calls) as batcher:
        callers = start_callers(batcher, [0])
        with pytest.raises(StoreError):
            await batcher.take(take_request_for(1))
        await run_ready_tasks()
        limiter.answer_all()
        await asyncio.wait(callers)
    assert calls.errors == {"overload": 1}


async def test_in_flight_is_the_number_of_callers_without_an_outcome() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_batch=2, max_in_flight=1) as batcher:
        assert batcher.in_flight == 0
        callers = start_callers(batcher, range(5))
        await run_ready_tasks()
        assert batcher.in_flight == 5
        callers[4].cancel()
        limiter.answer_all()
        await run_ready_tasks()
        assert batcher.in_flight == 2
        limiter.answer_all()
        await run_ready_tasks()
        assert batcher.in_flight == 0
        await asyncio.wait(callers)


def test_each_reason_of_an_error_has_a_series() -> None:
    def all_of(kind: type[StoreError]) -> set[str]:
        return {kind.reason}.union(*map(all_of, kind.__subclasses__()))

    assert all_of(StoreError) == set(REASONS)
