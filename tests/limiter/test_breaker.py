"""Tests of what the batcher does while the store is away: with held calls, and on a real store."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from ratelimitd.core.model import Limit
from ratelimitd.errors import (
    StoreAwayError,
    StoreConnectionError,
    StoreError,
    StoreRefusedError,
    StoreReplyError,
    StoreTimeoutError,
)
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.redis_limiter import RedisLimiter, greeting
from ratelimitd.store.client import connector, open_client
from ratelimitd.store.embedded import embedded_store
from ratelimitd.store.link import Link
from ratelimitd.telemetry.store_calls import StoreCalls
from tests.core.take_requests import take_request
from tests.eventually import eventually
from tests.limiter.stepped_loops import on_stepped_loop, stall
from tests.limiter.test_batcher import (
    HeldLimiter,
    numbers_received,
    run_ready_tasks,
    start_callers,
    take_request_for,
)

PATIENCE_S = 0.5
"""How long a decision waits for a real store: longer than a busy machine delays its reply."""


async def time_out(batcher: Batcher) -> None:
    """Lets a decision reach its deadline."""
    (late,) = start_callers(batcher, [0])
    await run_ready_tasks()
    stall(30)
    with pytest.raises(StoreTimeoutError):
        await late


def is_away(batcher: Batcher) -> bool:
    """Starts a decision, and returns whether it failed without being sent."""
    try:
        batcher.take(take_request_for(99))
    except StoreAwayError:
        return True
    return False


@on_stepped_loop
async def test_after_a_deadline_without_any_answer_decisions_fail_at_once() -> None:
    limiter, calls = HeldLimiter(), StoreCalls()
    async with Batcher(limiter, timeout_s=30, calls=calls) as batcher:
        await time_out(batcher)
        for number in (1, 2, 3):
            with pytest.raises(StoreAwayError, match="no answer within 30000 ms"):
                batcher.take(take_request_for(number))
        await run_ready_tasks()
        assert limiter.batches == [[0]]
        assert calls.errors == {"timeout": 1, "away": 3}
        limiter.answer_all()


@on_stepped_loop
async def test_a_late_answer_among_others_in_time_does_not_open() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        (late,) = start_callers(batcher, [0])
        await run_ready_tasks()
        stall(10)
        (refused,) = start_callers(batcher, [1])
        await run_ready_tasks()
        limiter.hold_back_first()
        limiter.fail_first(StoreRefusedError("OOM"))
        stall(20)
        with pytest.raises(StoreTimeoutError):
            await late
        assert isinstance(refused.exception(), StoreRefusedError)
        assert not is_away(batcher)
        await run_ready_tasks()
        limiter.answer_all()
    assert limiter.probes == 0


@pytest.mark.parametrize("sent", [True, False])
def test_a_caller_that_leaves_before_its_deadline_counts_if_it_was_sent(
    sent: bool,  # noqa: FBT001 - pytest passes it by name
) -> None:
    """Envoy may have a shorter timeout than the decision."""

    @on_stepped_loop
    async def run() -> None:
        limiter = HeldLimiter()
        async with Batcher(limiter, timeout_s=30) as batcher:
            (gone,) = start_callers(batcher, [0])
            if sent:
                await run_ready_tasks()
            gone.cancel()
            await run_ready_tasks()
            stall(29)
            (other,) = start_callers(batcher, [1])
            await run_ready_tasks()
            stall(1)
            await run_ready_tasks()
            assert is_away(batcher) is sent
            await run_ready_tasks()
            limiter.answer_all()
            await asyncio.wait([other])

    run()


@on_stepped_loop
async def test_a_decision_that_waits_already_may_still_be_answered_in_time() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        (late,) = start_callers(batcher, [0])
        await run_ready_tasks()
        stall(20)
        (waiting,) = start_callers(batcher, [1])
        await run_ready_tasks()
        stall(10)
        with pytest.raises(StoreTimeoutError):
            await late
        assert is_away(batcher)
        limiter.answer_all()
        await asyncio.wait([waiting])
    assert numbers_received([waiting]) == [1]


@on_stepped_loop
async def test_a_late_answer_leads_to_a_probe_and_one_in_time_to_the_end() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        await time_out(batcher)
        limiter.answer_first()
        assert is_away(batcher)
        for probes in (2, 3):
            stall(31)
            limiter.answer_first()  # the probe, too late
            assert limiter.probes == probes
            assert is_away(batcher)
        limiter.answer_first()
        assert not is_away(batcher)
        await run_ready_tasks()
        limiter.answer_all()
    assert limiter.probes == 3


@pytest.mark.parametrize("error", [StoreRefusedError("OOM"), StoreReplyError("x")])
def test_a_probe_that_is_refused_is_an_answer(error: StoreError) -> None:
    @on_stepped_loop
    async def run() -> None:
        limiter = HeldLimiter()
        async with Batcher(limiter, timeout_s=30) as batcher:
            await time_out(batcher)
            limiter.answer_first()
            limiter.fail_first(error)
            assert not is_away(batcher)
            await run_ready_tasks()
            limiter.answer_all()

    run()


@on_stepped_loop
async def test_a_probe_without_a_connection_is_repeated_one_at_a_time() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        await time_out(batcher)
        limiter.fail_first(StoreConnectionError("refused"))
        for probes in (1, 2, 3):
            assert limiter.probes == probes
            limiter.fail_first(StoreConnectionError("no route to host"))
            with pytest.raises(StoreAwayError, match="no route to host"):
                batcher.take(take_request_for(1))
            stall(1)
            await run_ready_tasks()
        limiter.answer_first()
        assert not is_away(batcher)
        await run_ready_tasks()
        limiter.answer_all()


async def test_a_lost_connection_does_not_open() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        start_callers(batcher, [0])
        await run_ready_tasks()
        limiter.fail_first(StoreConnectionError("lost"))
        assert not is_away(batcher)
        await run_ready_tasks()
        limiter.answer_all()
    assert limiter.probes == 0


@on_stepped_loop
async def test_a_closed_batcher_sends_no_more_probes() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        await time_out(batcher)
        limiter.answer_first()
    limiter.fail_first(StoreConnectionError("the link is closed"))
    stall(10)
    await run_ready_tasks()
    assert limiter.probes == 1


async def take(batcher: Batcher, key: str) -> str:
    """Takes one of two tokens. Returns `allowed`, `denied` or the reason of the error."""
    try:
        outcome = await batcher.take(take_request({key: Limit(2, 0.0001)}))
    except StoreError as error:
        return error.reason
    return "allowed" if outcome.allowed else "denied"


async def _hold_writes(store: Redis) -> Callable[[], Awaitable[object]]:
    """Lets the store answer PING, and hold back scripts."""
    await store.client_pause(60_000, all=False)
    return store.client_unpause


async def _suspend(store: Redis) -> Callable[[], Awaitable[object]]:
    pid = int((await store.info("server"))["process_id"])
    os.kill(pid, signal.SIGSTOP)

    async def resume() -> None:
        os.kill(pid, signal.SIGCONT)

    return resume


@pytest.mark.parametrize("hang", [_suspend, _hold_writes])
async def test_while_a_store_hangs_nothing_is_taken_and_afterwards_it_decides(
    hang: Callable[[Redis], Awaitable[Callable[[], Awaitable[object]]]],
) -> None:
    async with (
        embedded_store() as url,
        open_client(url) as store,
        Link(connector(url), greeting=greeting()) as link,
        Batcher(RedisLimiter(link), timeout_s=PATIENCE_S) as batcher,
    ):
        assert await take(batcher, "before") == "allowed"
        resume = await hang(store)
        try:
            assert await take(batcher, "first") == "timeout"
            assert [await take(batcher, "away") for _ in range(500)] == ["away"] * 500
        finally:
            await resume()

        async def decided() -> bool:
            return await take(batcher, "before") in {"allowed", "denied"}

        await eventually(decided, "the store decides")
        assert [await take(batcher, "away") for _ in range(3)] == ["allowed", "allowed", "denied"]
