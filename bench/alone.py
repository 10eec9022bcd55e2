"""A call of the store by itself: what one decision at a time waits for at least, wherever it is made."""

import time
from itertools import count

from bench.goals import Goal
from bench.rounds import Pace
from bench.stores import Store, spend
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.store.link import Link

CALLS_A_SECOND = 4000
_TIMEOUT_S = 2.0


async def store_call(store: Store, pace: Pace) -> Goal:
    """The mean time of a call with one decision, over the link, in a process that does nothing else."""
    await store.reset()
    users = count()
    means_us = []
    async with Link(store.url) as link, Batcher(RedisLimiter(link), timeout_s=_TIMEOUT_S) as limiter:
        for _ in range(pace.times + 1):
            calls = max(pace.first_calls, int(CALLS_A_SECOND * pace.seconds))
            asked = [spend(next(users)) for _ in range(calls)]
            began = time.perf_counter()
            for one in asked:
                await limiter.take(one)
            means_us.append((time.perf_counter() - began) / calls * 1e6)
    return Goal("a call of the store by itself, mean, for comparison: us", 120, means_us[1:], digits=0)
