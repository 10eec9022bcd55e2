"""Tests of the batcher: which requests share a call, and how callers are kept independent."""

import asyncio
import socket
from collections.abc import Callable, Sequence

import pytest
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.core.ports import BatchCallback
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import Batcher
from tests.core.take_requests import take_request
from tests.limiter.stepped_loops import new_asyncio_loop, new_uvloop, on_stepped_loop, stall


def take_request_for(number: object) -> TakeRequest:
    """Returns a request with this number as its key."""
    return take_request({str(number): Limit(1, 1.0)})


class HeldLimiter:
    """Holds each call until the test answers it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.probes = 0
        self._held: list[tuple[list[int], BatchCallback]] = []

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Records the numbers in the call."""
        numbers = [int(one.keys[0]) for one in requests]
        if numbers:
            self.batches.append(numbers)
        else:
            self.probes += 1
        self._held.append((numbers, callback))

    def answer_all(self) -> None:
        """Answers each call; the tokens left are the number of the request."""
        while self._held:
            self.answer_first()

    def answer_first(self) -> None:
        """Answers the oldest call."""
        numbers, callback = self._held.pop(0)
        callback([Outcome(allowed=True, tokens=(number * MICRO,)) for number in numbers])

    def hold_back_first(self) -> None:
        """Makes the oldest call the newest."""
        self._held.append(self._held.pop(0))

    def fail_first(self, error: Exception) -> None:
        """Fails the oldest call."""
        _, callback = self._held.pop(0)
        callback(error)


async def run_ready_tasks() -> None:
    """Lets each task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def start_callers(batcher: Batcher, numbers: Sequence[object]) -> list["asyncio.Future[Outcome]"]:
    """Starts one caller per number."""
    return [asyncio.ensure_future(batcher.take(take_request_for(number))) for number in numbers]


def numbers_received(callers: Sequence["asyncio.Future[Outcome]"]) -> list[int]:
    """Returns the number in the outcome of each caller."""
    numbers = [caller.result().tokens[0] for caller in callers]
    return [number // MICRO for number in numbers if number is not None]


async def test_a_single_request_is_sent_immediately() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        callers = start_callers(batcher, [7])
        await run_ready_tasks()
        assert limiter.batches == [[7]]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert numbers_received(callers) == [7]


async def test_requests_that_arrive_during_two_calls_share_the_next_call() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        callers = start_callers(batcher, [0])
        await run_ready_tasks()
        callers += start_callers(batcher, [1, 2])
        await run_ready_tasks()
        callers += start_callers(batcher, [3, 4, 5])
        await run_ready_tasks()
        assert limiter.batches == [[0], [1, 2]]
        limiter.answer_all()
        await run_ready_tasks()
        assert limiter.batches == [[0], [1, 2], [3, 4, 5]]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert numbers_received(callers) == list(range(6))


async def test_the_size_of_a_batch_is_limited() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_batch=3, max_in_flight=2) as batcher:
        callers = start_callers(batcher, range(7))
        await run_ready_tasks()
        assert limiter.batches == [[0, 1, 2], [3, 4, 5]]
        limiter.answer_all()
        await run_ready_tasks()
        assert limiter.batches[2] == [6]
        limiter.answer_all()
        await asyncio.wait(callers)
    assert numbers_received(callers) == list(range(7))


async def test_the_number_of_calls_in_flight_is_limited() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_in_flight=1) as batcher:
        callers = start_callers(batcher, [0])
        await run_ready_tasks()
        callers += start_callers(batcher, [1, 2])
        await run_ready_tasks()
        assert limiter.batches == [[0]]
        limiter.answer_all()
        await run_ready_tasks()
        assert limiter.batches == [[0], [1, 2]]
        limiter.answer_all()
        await asyncio.wait(callers)


async def test_a_failed_call_fails_only_its_own_callers() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        failing = start_callers(batcher, [0])
        await run_ready_tasks()
        fine = start_callers(batcher, [1])
        await run_ready_tasks()
        limiter.fail_first(StoreError("away"))
        await asyncio.wait(failing)
        with pytest.raises(StoreError, match="away"):
            failing[0].result()
        fine += start_callers(batcher, [2])
        await run_ready_tasks()
        limiter.answer_all()
        await asyncio.wait(fine)
    assert numbers_received(fine) == [1, 2]


async def test_a_cancelled_request_is_removed_from_the_next_batch() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        held = start_callers(batcher, [0])
        await run_ready_tasks()
        held += start_callers(batcher, [1])
        await run_ready_tasks()
        cancelled, stays = start_callers(batcher, [2, 3])
        cancelled.cancel()
        await run_ready_tasks()
        limiter.answer_all()
        await run_ready_tasks()
        assert limiter.batches[2:] == [[3]]
        limiter.answer_all()
        await asyncio.wait([*held, stays])
    assert cancelled.cancelled()


async def test_cancelling_a_request_in_flight_does_not_affect_the_others() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        gone, stays = start_callers(batcher, [0, 1])
        await run_ready_tasks()
        gone.cancel()
        limiter.answer_all()
        await asyncio.wait([gone, stays])
    assert numbers_received([stays]) == [1]


async def test_a_request_beyond_the_queue_limit_fails_immediately() -> None:
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_waiting=2) as batcher:
        callers = []
        for number in range(2):
            callers += start_callers(batcher, [number])
            await run_ready_tasks()
        callers += start_callers(batcher, [2, 3])
        await run_ready_tasks()
        with pytest.raises(StoreError, match="2 decisions already wait"):
            await batcher.take(take_request_for(4))
        limiter.answer_all()
        await run_ready_tasks()
        limiter.answer_all()
        await asyncio.wait(callers)
    assert numbers_received(callers) == [0, 1, 2, 3]


async def test_an_exception_of_the_limiter_reaches_the_callers() -> None:
    """The batcher passes on exceptions of any type, and still serves later requests."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30) as batcher:
        failing = start_callers(batcher, ["no number"])
        with pytest.raises(ValueError, match="no number"):
            await failing[0]
        callers = start_callers(batcher, [1])
        await run_ready_tasks()
        limiter.answer_all()
        await asyncio.wait(callers)
    assert numbers_received(callers) == [1]


@on_stepped_loop
async def test_an_answer_ends_an_outage_only_if_a_caller_got_it_in_time() -> None:
    limiter = HeldLimiter()
    with capture_logs() as lines:
        async with Batcher(limiter, timeout_s=30) as batcher:
            for number in range(2):
                late = start_callers(batcher, [number])
                await run_ready_tasks()
                stall(30)
                with pytest.raises(StoreError, match="no answer within 30000 ms"):
                    await late[0]
                limiter.answer_all()
                stall(5)
                await run_ready_tasks()
            assert [line["event"] for line in lines] == ["store_away"]
            callers = start_callers(batcher, [2])
            await run_ready_tasks()
            limiter.answer_all()
            await asyncio.wait(callers)
            stall(5)
            await run_ready_tasks()
    assert [line["event"] for line in lines] == ["store_away", "store_back"]
    assert lines[1]["failed_calls"] == 2


async def test_closing_the_batcher_waits_for_the_calls_in_flight() -> None:
    limiter = HeldLimiter()
    batcher = Batcher(limiter, timeout_s=30)
    callers = start_callers(batcher, [0])
    await run_ready_tasks()
    ending = asyncio.create_task(batcher.__aexit__(None, None, None))
    await run_ready_tasks()
    assert not ending.done()
    limiter.answer_all()
    await ending
    await asyncio.wait(callers)
    assert numbers_received(callers) == [0]


@on_stepped_loop
async def test_each_request_has_its_own_timeout() -> None:
    """It applies in the queue and in flight."""
    limiter = HeldLimiter()
    async with Batcher(limiter, timeout_s=30, max_in_flight=1) as batcher:
        in_flight = start_callers(batcher, [0])
        await run_ready_tasks()
        stall(20)
        queued = start_callers(batcher, [1])
        await run_ready_tasks()
        for late, other in ((in_flight, queued), (queued, in_flight)):
            stall(15)
            with pytest.raises(StoreError, match="no answer within 30000 ms"):
                await late[0]
            assert other[0].done() == (late is queued)
        assert limiter.batches == [[0]]
        limiter.answer_all()
        later = start_callers(batcher, [2])
        await run_ready_tasks()
        assert limiter.batches == [[0], [2]]
        limiter.answer_all()
        await asyncio.wait(later)
    assert numbers_received(later) == [2]


class SocketLimiter(asyncio.Protocol):
    """A limiter that receives its answers from a socket. Any other data blocks the event loop."""

    def submit(self, _requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Sends nothing, because the test answers."""
        self.callback = callback

    def data_received(self, data: bytes) -> None:
        """Passes an answer on, or blocks the event loop."""
        if data == b"answer":
            self.callback([Outcome(allowed=True, tokens=(MICRO,))])
        else:
            self.block_loop()

    def block_loop(self) -> None:
        """Blocks the event loop until the timeout has passed and the answer has arrived."""
        self.answer_socket.send(b"answer")
        stall(60)

    answer_socket: socket.socket


@pytest.mark.parametrize("blocked_by", ["a task", "a timer", "another socket"])
@pytest.mark.parametrize("loop_of", [new_asyncio_loop, new_uvloop], ids=["asyncio", "uvloop"])
def test_an_answer_that_arrived_while_the_loop_was_blocked_is_used(
    loop_of: Callable[[], asyncio.AbstractEventLoop], blocked_by: str
) -> None:
    async def decide() -> Outcome:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        other_here, other_there = socket.socketpair()
        with there, other_there:
            transport, limiter = await loop.create_connection(SocketLimiter, sock=here)
            other, blocker = await loop.create_connection(SocketLimiter, sock=other_here)
            limiter.answer_socket = blocker.answer_socket = there
            async with Batcher(limiter, timeout_s=30) as batcher:
                (caller,) = start_callers(batcher, [1])
                await run_ready_tasks()
                if blocked_by == "a task":
                    blocker.block_loop()
                elif blocked_by == "a timer":
                    loop.call_later(0.001, blocker.block_loop)
                else:
                    other_there.send(b"block")
                outcome = await caller
            transport.close()
            other.close()
            await run_ready_tasks()
            return outcome

    with asyncio.Runner(loop_factory=loop_of) as runner:
        outcome = runner.run(decide())
    assert outcome.allowed
