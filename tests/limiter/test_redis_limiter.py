"""Tests of the limiter on a real store, and on stores that fail."""

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
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.limiter.take_script import decode
from ratelimitd.store.client import connector
from ratelimitd.store.link import Link
from tests.core.take_requests import take_request
from tests.eventually import eventually
from tests.redis_server import redis_server
from tests.script_limiter import ScriptLimiter, take_batch


@pytest.fixture
async def link(store_url: str, store: Redis) -> AsyncIterator[Link]:
    """Yields a link to an empty store."""
    await store.ping()
    async with Link(connector(store_url)) as link:
        yield link


def request(key: str = "k", capacity: int = 3) -> TakeRequest:
    """Returns a request for one token from a bucket that hardly refills."""
    return take_request({key: Limit(capacity, 0.001)})


async def test_a_batch_is_answered_in_order(link: Link) -> None:
    """The bucket holds three tokens; only its fourth request is denied."""
    outcomes = await take_batch(
        RedisLimiter(link), [request(), request(), request("x"), request(), request()]
    )
    assert [outcome.allowed for outcome in outcomes] == [True, True, True, True, False]


async def test_a_flushed_script_cache_causes_no_error(link: Link, store: Redis) -> None:
    """The call after SCRIPT FLUSH succeeds and takes its tokens once."""
    limiter = RedisLimiter(link)
    await take_batch(limiter, [request()])
    await store.script_flush()
    (outcome,) = await take_batch(limiter, [request()])
    assert outcome.tokens[0] is not None
    assert outcome.tokens[0] // MICRO == 1


async def test_concurrent_requests_admit_exactly_the_tokens_of_the_bucket(
    store_url: str, store: Redis
) -> None:
    await store.ping()
    async with (
        Link(connector(store_url)) as one,
        Link(connector(store_url)) as two,
        Link(connector(store_url)) as three,
    ):
        limiters = [RedisLimiter(link) for link in (one, two, three)]
        calls = [take_batch(limiters[n % 3], [request("shared", 40)]) for n in range(300)]
        outcomes = await asyncio.gather(*calls)
    assert sum(outcome.allowed for (outcome,) in outcomes) == 40


async def test_a_refused_connection_is_a_store_error(tmp_path: Path) -> None:
    async with Link(connector(f"unix://{tmp_path}/none.sock")) as link:
        with pytest.raises(StoreError, match="the store failed"):
            await take_batch(RedisLimiter(link), [request()])


@asynccontextmanager
async def _serving(path: Path, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    """Serves fixed answers. At its end it waits until the clients have closed their connections."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while received := await reader.read(65536):
            writer.write(answer(received))
        writer.close()
        await writer.wait_closed()

    handlers: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.get_running_loop().create_task(handle(reader, writer)))

    async with await asyncio.start_unix_server(accept, path):
        yield
    await asyncio.gather(*handlers)


def _handshake_then(reply: bytes) -> Callable[[bytes], bytes]:
    """Returns a function that answers EVALSHA with `reply`, and other commands with OK."""
    return lambda received: reply if b"EVALSHA" in received else b"+OK\r\n" * received.count(b"*")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"*1\r\n:1\r\n", "reply"),
        (b":1\r\n", "reply"),
        (b"$2\r\nhi\r\n", "reply"),
        (b"*2\r\n:1\r\n$1\r\nx\r\n", "reply"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "connection"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "refused"),
        (b"-READONLY You can't write against a read only replica.\r\n", "refused"),
        (b"-NOAUTH Authentication required.\r\n", "connection"),
        (b"-BUSY Redis is busy running a script.\r\n", "refused"),
        (b"?what\r\n", "connection"),
    ],
)
async def test_an_error_or_an_invalid_reply_is_a_store_error(
    tmp_path: Path, reply: bytes, reason: str
) -> None:
    async with (
        _serving(tmp_path / "s", _handshake_then(reply)),
        Link(connector(f"unix://{tmp_path}/s")) as link,
    ):
        with pytest.raises(StoreError) as error:
            await take_batch(RedisLimiter(link), [request()])
    assert error.value.reason == reason


async def test_a_key_of_another_type_is_replaced_and_logged(link: Link, store: Redis) -> None:
    """The other requests of the batch get their tokens."""
    await store.rpush("k é", "an element")
    with capture_logs() as logs:
        outcomes = await take_batch(RedisLimiter(link), [request("x"), request("k é"), request("k é")])
    assert [outcome.tokens[0] for outcome in outcomes] == [2 * MICRO, 2 * MICRO, MICRO]
    assert logs == [{"event": "bucket_replaced", "log_level": "warning", "key": "k é", "type": "list"}]
    assert await store.hget("k é", "tokens") == b"1"
    assert 0 < await store.pttl("k é") < 2_010_000


async def test_a_large_key_of_another_type_is_freed_in_the_background() -> None:
    """Freeing it at once would block Redis, and the decisions of other users would time out."""
    async with redis_server() as (address, client), Link(connector(f"redis://{address}")) as link:
        await client.sadd("k", *range(1000))
        assert (await take_batch(RedisLimiter(link), [request()]))[0].allowed

        async def freed() -> bool:
            return bool((await client.info("memory"))["lazyfreed_objects"])

        await eventually(freed, "another thread frees the set")


async def test_another_error_in_the_script_is_a_store_error(link: Link, store: Redis) -> None:
    """Here it is a command that the user may not call. The text of the error names it."""
    await store.acl_setuser("default", enabled=True, nopass=True, commands=["+@all", "-hmget"])
    try:
        with pytest.raises(StoreError, match="'hmget'"):
            await take_batch(RedisLimiter(link), [request()])
    finally:
        await store.acl_setuser("default", enabled=True, nopass=True, commands=["+@all"])


def test_a_reply_of_the_wrong_length_is_a_store_error() -> None:
    with pytest.raises(StoreError, match="expected 4 integers"):
        decode([1, 2, 3], [request(), request()])


async def test_the_script_runs_on_fakeredis() -> None:
    async with fakeredis.FakeAsyncRedis() as client:
        outcome = await ScriptLimiter(client).take(request())
    assert outcome == Outcome(True, (2 * MICRO,))  # noqa: FBT003 - the field is the name


async def test_connecting_may_take_longer_than_the_timeout_of_a_decision(tmp_path: Path) -> None:
    """Decisions fail until the connection is ready; then they use that same connection."""
    gate = asyncio.Event()
    connections = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await gate.wait()
        while received := await reader.read(65536):
            writer.write(
                b"*2\r\n:1\r\n:2\r\n" * received.count(b"EVALSHA") or b"+OK\r\n" * received.count(b"*")
            )
        writer.close()

    server = await asyncio.start_unix_server(handle, tmp_path / "s")
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
