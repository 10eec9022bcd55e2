"""The limiter on a real store, and what it makes of a store that fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import fakeredis
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.outage_log import OutageLog
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.limiter.take_script import decode
from ratelimitd.store.client import connector
from ratelimitd.store.link import Link
from tests.core.take_requests import take_request
from tests.limiters import ScriptLimiter, taken


@pytest.fixture
async def link(store_url: str, store: Redis) -> AsyncIterator[Link]:
    """A link to an empty store."""
    await store.ping()
    async with Link(connector(store_url)) as link:
        yield link


def request(key: str = "k", capacity: int = 3) -> TakeRequest:
    """One token from one bucket that hardly refills."""
    return take_request({key: Limit(capacity, 0.001)})


async def test_a_batch_is_answered_in_order(link: Link) -> None:
    """The fourth request on a bucket of three is the one denied."""
    outcomes = await taken(RedisLimiter(link), [request(), request(), request("x"), request(), request()])
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, True, False]


async def test_a_lost_script_cache_goes_unnoticed(link: Link, store: Redis) -> None:
    """SCRIPT FLUSH between two calls costs nobody an error, and no token twice."""
    limiter = RedisLimiter(link)
    await taken(limiter, [request()])
    await store.script_flush()
    (outcome,) = await taken(limiter, [request()])
    assert outcome.tokens[0] is not None
    assert outcome.tokens[0] // MICRO == 1


async def test_many_at_once_share_one_bucket_exactly(store_url: str, store: Redis) -> None:
    """Three links, 300 requests, 40 tokens: 40 pass."""
    await store.ping()
    async with (
        Link(connector(store_url)) as one,
        Link(connector(store_url)) as two,
        Link(connector(store_url)) as three,
    ):
        limiters = [RedisLimiter(link) for link in (one, two, three)]
        calls = [taken(limiters[n % 3], [request("shared", 40)]) for n in range(300)]
        outcomes = await asyncio.gather(*calls)
    assert sum(outcome.allowed for (outcome,) in outcomes) == 40


async def test_nobody_listens_where_the_store_should_be(tmp_path: Path) -> None:
    """A refused connection is a StoreError that names the reason."""
    async with Link(connector(f"unix://{tmp_path}/none.sock")) as link:
        with pytest.raises(StoreError, match="the store failed"):
            await taken(RedisLimiter(link), [request()])


@asynccontextmanager
async def _serving(path: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    """A store of few words. It waits for the end of its connections, so whoever has one closes it before."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            writer.write(answer(received))
        writer.close()
        await writer.wait_closed()

    talks: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.append(asyncio.get_running_loop().create_task(talk(reader, writer)))

    async with await asyncio.start_unix_server(accept, path):
        yield
    await asyncio.gather(*talks)


def _handshake_then(reply: bytes) -> Callable[[bytes], bytes]:
    """Answers a driver's CLIENT commands, and EVALSHA with `reply`."""
    return lambda received: reply if b"EVALSHA" in received else b"+OK\r\n" * received.count(b"*")


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
        _serving(tmp_path / "s", _handshake_then(reply)),
        Link(connector(f"unix://{tmp_path}/s")) as link,
    ):
        with pytest.raises(StoreError):
            await taken(RedisLimiter(link), [request()])


async def test_a_key_of_another_type_is_a_store_error(link: Link, store: Redis) -> None:
    """Somebody wrote a string where a bucket belongs: nobody is charged for it."""
    await store.set("k", "a string")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await taken(RedisLimiter(link), [request()])


def test_a_reply_of_the_wrong_length_is_refused() -> None:
    """A reply is read only when it is exactly what was asked for."""
    with pytest.raises(StoreError, match="expected 4 integers"):
        decode([1, 2, 3], [request(), request()])


async def test_the_script_also_runs_on_the_in_memory_stand_in() -> None:
    """People who test with fakeredis have the same script."""
    async with fakeredis.FakeAsyncRedis() as client:
        outcome = await ScriptLimiter(client).take(request())
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


def test_an_outage_is_two_log_lines() -> None:
    """One when the store goes away, one when it is back, with the number of failed decisions."""
    with capture_logs() as lines:
        log = OutageLog()
        for _ in range(3):
            log.failed(StoreError("away"))
        for _ in range(3):
            log.succeeded()
    assert [line["event"] for line in lines] == ["store_away", "store_back"]
    assert lines[0]["reason"] == "away"
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
        Link(connector(f"unix://{tmp_path}/s")) as link,
        Batcher(RedisLimiter(link), timeout_s=0.01) as impatient,
        Batcher(RedisLimiter(link), timeout_s=30) as patient,
    ):
        for _ in range(3):
            with pytest.raises(StoreError, match="no answer within 10 ms"):
                await impatient.take(request())
        gate.set()
        outcome = await patient.take(request())
    assert outcome == Outcome(allowed=True, tokens=(2,))
    assert connections == 1
