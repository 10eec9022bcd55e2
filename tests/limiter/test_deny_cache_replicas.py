"""Tests of several replicas, each with a deny cache, that share one bucket."""

from collections.abc import Coroutine, Generator
from types import coroutine

from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from ratelimitd.core import bucket
from ratelimitd.core.model import MICRO, Limit, Outcome, TakeRequest
from ratelimitd.limiter.deny_cache import DenyCache, monotonic_us
from ratelimitd.store.client import open_client
from tests.core.fakes import OracleLimiter
from tests.core.take_requests import take_request
from tests.script_limiter import ScriptLimiter

REPLICAS = 2
HOT = Limit(2, 50.0)
"""One token refills in 20 ms."""
HOT_REQUEST = take_request({"hot": HOT})
PEEK = take_request({"hot": HOT}, cost=3 * MICRO)
"""Costs more than the capacity, so it takes no tokens; its outcome reports the tokens."""


@coroutine
def pause() -> Generator[None, None, None]:
    """Waits until the test resumes the call."""
    yield


class PausingStore(OracleLimiter):
    """A store in memory. Each call pauses before and after its decision."""

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome."""
        await pause()
        outcome = await super().take(request)
        await pause()
        return outcome


def resume(call: Coroutine[object, object, Outcome]) -> Outcome | None:
    """Returns the outcome of a call, or None if it pauses again."""
    try:
        call.send(None)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    return None


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 7)), min_size=10, max_size=60))
def test_replicas_whose_calls_overlap_deny_only_while_the_store_would(steps: list[tuple[int, int]]) -> None:
    """Each step moves the clock (us) and one of eight callers: to the store, past the decision or back."""
    store = PausingStore()
    began_us = store.now_us
    caches = [DenyCache(store, now_us=lambda: store.now_us) for _ in range(REPLICAS)]
    calls: dict[int, Coroutine[object, object, Outcome]] = {}
    admitted = 0
    for gap_us, caller in steps:
        store.now_us += gap_us
        begins = caller not in calls
        call = calls.pop(caller, None) or caches[caller % REPLICAS].take(HOT_REQUEST)
        outcome = resume(call)
        if outcome is None:
            calls[caller] = call
            continue
        admitted += outcome.allowed
        if begins:  # the cache decided
            assert not outcome.allowed
            assert not bucket.charge_buckets(store.buckets, HOT_REQUEST, store.now_us)[0].allowed
    for call in calls.values():
        call.close()
    assert admitted <= HOT.capacity + HOT.refill_rate * (store.now_us - began_us) / MICRO


class Replica:
    """A cache in front of a real store."""

    def __init__(self, client: Redis) -> None:
        self.calls = 0
        self.cache = DenyCache(self)
        self._limiter = ScriptLimiter(client)

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome, and counts the call."""
        self.calls += 1
        return await self._limiter.take(request)


async def tokens_in(limiter: ScriptLimiter) -> int:
    """Returns the microtokens in the store."""
    (tokens,) = (await limiter.take(PEEK)).tokens
    assert tokens is not None
    return tokens


async def server_us(store: Redis) -> int:
    """Returns the store's clock."""
    seconds, micros = await store.time()
    return int(seconds) * MICRO + int(micros)


async def test_replicas_of_a_real_store_deny_only_while_it_would(store_url: str, store: Redis) -> None:
    """A third client reads the bucket before and after each request, and also spends from it.

    Together the three admit as many requests as the limit allows.
    """
    admitted = denied_by_cache = 0
    async with open_client(store_url) as first, open_client(store_url) as second:
        replicas = [Replica(first), Replica(second)]
        other = ScriptLimiter(store)
        began_us = await server_us(store)
        while denied_by_cache < 200:
            for replica in replicas:
                tokens_before, calls, asked_us = await tokens_in(other), replica.calls, monotonic_us()
                outcome = await replica.cache.take(HOT_REQUEST)
                tokens_after, seen_us = await tokens_in(other), monotonic_us()
                admitted += outcome.allowed
                if replica.calls == calls:
                    denied_by_cache += 1
                    assert not outcome.allowed
                    assert tokens_before < MICRO
                    assert tokens_after < MICRO + HOT.refill_rate * (seen_us - asked_us)
            admitted += (await other.take(HOT_REQUEST)).allowed
        ended_us = await server_us(store)
    assert HOT.capacity <= admitted <= HOT.capacity + HOT.refill_rate * (ended_us - began_us) / MICRO
