"""The limiter on a real store, and what it makes of a store that fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import fakeredis
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest, Tier, TierName
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.deadline import Deadline
from ratelimitd.limiter.outage_log import OutageLog
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.limiter.script import decode
from ratelimitd.store.link import Link
from tests.core.fakes import BrokenLimiter, OracleLimiter


@pytest.fixture
async def link(store_url: str, store: Redis) -> AsyncIterator[Link]:
    """A link to an empty store."""
    await store.ping()
    async with Link(store_url) as link:
        yield link


def request(key: str = "k", capacity: int = 3) -> TakeRequest:
    """One token from one bucket that hardly refills."""
    return TakeRequest((Tier(TierName.USER, key, Limit(capacity, 0.001)),))


async def test_a_batch_is_answered_in_order(link: Link) -> None:
    """The fourth request on a bucket of three is the one denied."""
    outcomes = await RedisLimiter(link).take([request(), request(), request("x"), request(), request()])
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, True, False]


async def test_a_lost_script_cache_goes_unnoticed(link: Link, store: Redis) -> None:
    """SCRIPT FLUSH between two calls costs nobody an error, and no token twice."""
    limiter = RedisLimiter(link)
    await limiter.take([request()])
    await store.script_flush()
    (outcome,) = await limiter.take([request()])
    assert outcome.tokens[0] is not None
    assert outcome.tokens[0] // MICRO == 1


async def test_many_at_once_share_one_bucket_exactly(store_url: str, store: Redis) -> None:
    """Three links, 300 requests, 40 tokens: 40 pass."""
    await store.ping()
    async with Link(store_url) as one, Link(store_url) as two, Link(store_url) as three:
        limiters = [RedisLimiter(link) for link in (one, two, three)]
        calls = [limiters[n % 3].take([request("shared", 40)]) for n in range(300)]
        outcomes = await asyncio.gather(*calls)
    assert sum(outcome.allowed for (outcome,) in outcomes) == 40


async def test_nobody_listens_where_the_store_should_be(tmp_path: Path) -> None:
    """A refused connection is a StoreError that names the reason."""
    async with Link(f"unix://{tmp_path}/none.sock") as link:
        with pytest.raises(StoreError, match="the store failed"):
            await RedisLimiter(link).take([request()])


async def _serve(path: Path, answer: Callable[[bytes], bytes | None]) -> asyncio.Server:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            reply = answer(received)
            if reply is not None:
                writer.write(reply)
                await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(talk, path)


def _handshake_then(reply: bytes | None) -> Callable[[bytes], bytes | None]:
    """Answers a driver's CLIENT commands, and EVALSHA with `reply`."""
    return lambda received: reply if b"EVALSHA" in received else b"+OK\r\n" * received.count(b"*")


async def test_a_store_that_never_answers_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    """The caller gets StoreError when the deadline passes."""
    async with await _serve(tmp_path / "s", lambda _: None), Link(f"unix://{tmp_path}/s") as link:
        with pytest.raises(StoreError, match="no answer within 50 ms"):
            await Deadline(RedisLimiter(link), 0.05).take([request()])


@pytest.mark.parametrize(
    "reply",
    [
        b"*1\r\n:1\r\n",
        b":1\r\n",
        b"$2\r\nhi\r\n",
        b"*2\r\n:1\r\n$1\r\nx\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"-NOAUTH Authentication required.\r\n",
        b"-BUSY Redis is busy running a script.\r\n",
        b"?what\r\n",
    ],
)
async def test_an_answer_that_decides_nothing_is_a_store_error(tmp_path: Path, reply: bytes) -> None:
    """Nonsense, refusals and a store that is loading: all one error, none a denial."""
    async with (
        await _serve(tmp_path / "s", _handshake_then(reply)),
        Link(f"unix://{tmp_path}/s") as link,
    ):
        with pytest.raises(StoreError):
            await RedisLimiter(link).take([request()])


async def test_a_key_of_another_type_is_a_store_error(link: Link, store: Redis) -> None:
    """Somebody wrote a string where a bucket belongs: nobody is charged for it."""
    await store.set("k", "a string")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await RedisLimiter(link).take([request()])


def test_a_reply_of_the_wrong_length_is_refused() -> None:
    """A reply is read only when it is exactly what was asked for."""
    with pytest.raises(StoreError, match="expected 4 integers"):
        decode([1, 2, 3], [request(), request()])


async def test_the_script_also_runs_on_the_in_memory_stand_in() -> None:
    """People who test with fakeredis can use the limiter as it is, or any client of redis-py."""
    async with fakeredis.FakeAsyncRedis() as client:
        (outcome,) = await RedisLimiter(client).take([request()])
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


class Switch:
    """A limiter whose store comes and goes."""

    def __init__(self) -> None:
        self.inner: BrokenLimiter | OracleLimiter = BrokenLimiter()

    async def take(self, requests: Any) -> Any:
        """Whatever the inner one does."""
        return await self.inner.take(requests)


async def test_an_outage_is_two_log_lines() -> None:
    """One when the store goes away, one when it is back, with the number of failed calls."""
    switch = Switch()
    with capture_logs() as lines:
        limiter = OutageLog(switch)
        for _ in range(3):
            with pytest.raises(StoreError):
                await limiter.take([request()])
        switch.inner = OracleLimiter()
        for _ in range(3):
            await limiter.take([request()])
    assert [line["event"] for line in lines] == ["store_away", "store_back"]
    assert lines[1]["failed_calls"] == 3


async def test_connecting_may_take_longer_than_a_decision(tmp_path: Path) -> None:
    """Decisions fail meanwhile, and the connection that they began is used once it is there."""
    gate = asyncio.Event()
    connections = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await gate.wait()
        while received := await reader.read(65536):
            writer.write(
                b"*2\r\n:1\r\n:2\r\n" * received.count(b"EVALSHA") or b"+OK\r\n" * received.count(b"*")
            )
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "s")
    async with (
        server,
        Link(f"unix://{tmp_path}/s") as link,
        Batcher(Deadline(RedisLimiter(link), 30), timeout_s=30) as batcher,
    ):
        limiter = Deadline(batcher, 0.01)
        for _ in range(3):
            with pytest.raises(StoreError, match="no answer within 10 ms"):
                await limiter.take([request()])
        gate.set()
        outcomes = await batcher.take([request()])
    assert outcomes == [Outcome(allowed=True, tokens=(2,))]
    assert connections == 1
