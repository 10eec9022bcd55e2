"""Who travels with whom, and what one caller's trouble means for the others."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

import pytest
import uvloop
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import BatchCallback
from ratelimitd.errors import StoreError
from ratelimitd.limiter import batcher as module
from ratelimitd.limiter.batcher import Batcher
from tests.core.take_requests import take_request


def request(number: object) -> TakeRequest:
    """A request that can be told from others by its key."""
    return take_request({str(number): Limit(1, 1.0)})


class HeldLimiter:
    """Keeps each call until the test answers it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self._held: list[tuple[list[int], BatchCallback]] = []

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Notes what the call holds."""
        numbers = [int(one.keys[0]) for one in requests]
        self.batches.append(numbers)
        self._held.append((numbers, callback))

    def answer_all(self) -> None:
        """Answers every call with each key as the tokens left."""
        while self._held:
            numbers, callback = self._held.pop(0)
            callback([Outcome(allowed=True, tokens=(number * MICRO,)) for number in numbers])

    def fail_first(self, error: Exception) -> None:
        """Fails the call that has been held longest."""
        _, callback = self._held.pop(0)
        callback(error)


async def settle() -> None:
    """Lets every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


def ask(batcher: Batcher, numbers: Sequence[object]) -> list["asyncio.Future[Outcome]"]:
    """One caller per number."""
    return [asyncio.ensure_future(batcher.take(request(number))) for number in numbers]


def answered(callers: Sequence["asyncio.Future[Outcome]"]) -> list[int]:
    """Each caller's own number, from its own outcome."""
    numbers = [caller.result().tokens[0] for caller in callers]
    return [number // MICRO for number in numbers if number is not None]


async def test_one_at_a_time_goes_at_once() -> None:
    """No timer holds a single caller back."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        callers = ask(batcher, [7])
        await settle()
        assert limiter.batches == [[7]]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert answered(callers) == [7]


async def test_those_who_come_while_two_calls_are_in_flight_travel_together() -> None:
    """In order, and each gets its own outcome."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        callers = ask(batcher, [0])
        await settle()
        callers += ask(batcher, [1, 2])
        await settle()
        callers += ask(batcher, [3, 4, 5])
        await settle()
        assert limiter.batches == [[0], [1, 2]]
        limiter.answer_all()
        await settle()
        assert limiter.batches == [[0], [1, 2], [3, 4, 5]]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert answered(callers) == list(range(6))


async def test_a_batch_has_a_bound() -> None:
    """Whom one call has no room for go with the next."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_batch=3, max_in_flight=2) as batcher:
        callers = ask(batcher, range(7))
        await settle()
        assert limiter.batches == [[0, 1, 2], [3, 4, 5]]
        limiter.answer_all()
        await settle()
        assert limiter.batches[2] == [6]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert answered(callers) == list(range(7))


async def test_calls_in_flight_have_a_bound() -> None:
    """With one at most, those who come later wait for its answer."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_in_flight=1) as batcher:
        callers = ask(batcher, [0])
        await settle()
        callers += ask(batcher, [1, 2])
        await settle()
        assert limiter.batches == [[0]]
        limiter.answer_all()
        await settle()
        assert limiter.batches == [[0], [1, 2]]
        limiter.answer_all()
        await asyncio.wait(callers)


async def test_a_failed_call_fails_only_its_own_callers() -> None:
    """Those of the other call, and those who come later, are answered."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        failing = ask(batcher, [0])
        await settle()
        fine = ask(batcher, [1])
        await settle()
        limiter.fail_first(StoreError("away"))
        await asyncio.wait(failing)
        with pytest.raises(StoreError, match="away"):
            failing[0].result()
        fine += ask(batcher, [2])
        await settle()
        limiter.answer_all()
        await asyncio.wait(fine)
    assert answered(fine) == [1, 2]


async def test_a_caller_that_gave_up_is_dropped_from_the_batch_it_waits_for() -> None:
    """It costs nobody a token."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        held = ask(batcher, [0])
        await settle()
        held += ask(batcher, [1])
        await settle()
        cancelled, stays = ask(batcher, [2, 3])
        cancelled.cancel()
        await settle()
        limiter.answer_all()
        await settle()
        assert limiter.batches[2:] == [[3]]
        limiter.answer_all()
        await asyncio.wait([*held, stays])
    assert cancelled.cancelled()


async def test_a_caller_that_gave_up_in_flight_changes_nothing_for_the_others() -> None:
    """Its outcome is thrown away."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        gone, stays = ask(batcher, [0, 1])
        await settle()
        gone.cancel()
        limiter.answer_all()
        await asyncio.wait([gone, stays])
    assert answered([stays]) == [1]


async def test_too_many_waiting_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting longer would help nobody."""
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        callers = []
        for number in range(2):
            callers += ask(batcher, [number])
            await settle()
        callers += ask(batcher, [2, 3])
        await settle()
        with pytest.raises(StoreError, match="2 decisions already wait"):
            await batcher.take(request(4))
        limiter.answer_all()
        await settle()
        limiter.answer_all()
        await asyncio.wait(callers)
    assert answered(callers) == [0, 1, 2, 3]


async def test_what_cannot_be_sent_fails_its_callers() -> None:
    """Whatever it is, it is theirs to handle, and whoever comes later is served."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        failing = ask(batcher, ["no number"])
        with pytest.raises(ValueError, match="no number"):
            await failing[0]
        callers = ask(batcher, [1])
        await settle()
        limiter.answer_all()
        await asyncio.wait(callers)
    assert answered(callers) == [1]


async def test_an_outage_is_over_when_somebody_is_answered_in_time() -> None:
    """An answer that comes when all its callers have left ends none."""
    limiter = HeldLimiter()
    with capture_logs() as lines:
        async with Batcher(limiter, timeout_s=0.01) as batcher:
            for number in range(2):
                late = ask(batcher, [number])
                with pytest.raises(StoreError, match="no answer within 10 ms"):
                    await late[0]
                limiter.answer_all()
            assert [line["event"] for line in lines] == ["store_away"]
            callers = ask(batcher, [2])
            await settle()
            limiter.answer_all()
            await asyncio.wait(callers)
    assert [line["event"] for line in lines] == ["store_away", "store_back"]
    assert lines[1]["failed_calls"] == 2


async def test_the_end_waits_for_the_calls_that_are_left() -> None:
    """Nobody who was let in goes unanswered."""
    limiter = HeldLimiter()
    batcher = Batcher(limiter, timeout_s=30)
    callers = ask(batcher, [0])
    await settle()
    ending = asyncio.create_task(batcher.__aexit__(None, None, None))
    await settle()
    assert not ending.done()
    limiter.answer_all()
    await ending
    await asyncio.wait(callers)
    assert answered(callers) == [0]


async def test_who_waits_too_long_is_told_so_and_the_others_wait_on() -> None:
    """In the queue as in flight; whoever came later has its own time."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=0.2, max_in_flight=1) as batcher:
        in_flight = ask(batcher, [0])
        await settle()
        queued = ask(batcher, [1])
        for late in (in_flight, queued):
            with pytest.raises(StoreError, match="no answer within 200 ms"):
                await late[0]
        later = ask(batcher, [2])
        await settle()
        assert limiter.batches == [[0]]
        limiter.answer_all()
        await settle()
        assert limiter.batches == [[0], [2]]
        limiter.answer_all()
        await asyncio.wait(later)
    assert answered(later) == [2]


class Wired(asyncio.Protocol):
    """A limiter that hears an answer over a socket. It stalls its loop when it hears anything else."""

    def submit(self, _requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Nothing is asked: the test answers."""
        self.callback = callback

    def data_received(self, data: bytes) -> None:
        """An answer, or a stall, during which the test's answer comes."""
        if data == b"answer":
            self.callback([Outcome(allowed=True, tokens=(MICRO,))])
        else:
            self.stall()

    def stall(self) -> None:
        """The deadline passes, and the answer is there."""
        self.there.send(b"answer")
        time.sleep(0.04)

    there: socket.socket


@pytest.mark.parametrize("stalled_by", ["a task", "a timer", "another socket"])
@pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_answer_that_is_there_is_not_late(
    loop_of: Callable[[], asyncio.AbstractEventLoop], stalled_by: str
) -> None:
    """After a stall of the loop what has arrived meanwhile is read first."""

    async def stalled() -> Outcome:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        other_here, other_there = socket.socketpair()
        with there, other_there:
            transport, store = await loop.create_connection(Wired, sock=here)
            other, stalling = await loop.create_connection(Wired, sock=other_here)
            store.there = stalling.there = there
            async with Batcher(store, timeout_s=0.02) as batcher:
                (caller,) = ask(batcher, [1])
                await settle()
                if stalled_by == "a task":
                    stalling.stall()
                elif stalled_by == "a timer":
                    loop.call_later(0.001, stalling.stall)
                else:
                    other_there.send(b"stall")
                outcome = await caller
            transport.close()
            other.close()
            await settle()
            return outcome

    with asyncio.Runner(loop_factory=loop_of) as runner:
        outcome = runner.run(stalled())
    assert outcome.allowed
