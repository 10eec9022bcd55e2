"""Limiters without a batcher: one over any Redis client, and a call of a batch limiter."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import BatchLimiter
from ratelimitd.limiter.take_script import decode, encode
from ratelimitd.resources import resource


class ScriptLimiter:
    """Runs the shipped script through any redis-py client, such as that of fakeredis."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._script = resource("lua/take.lua").read_text()

    async def take(self, request: TakeRequest) -> Outcome:
        """Returns the outcome of the request, which has a script call of its own."""
        keys, arguments = encode([request])
        (outcome,) = decode(await self._client.eval(self._script, len(keys), *keys, *arguments), [request])
        return outcome


def complete(future: "asyncio.Future[Any]", answer: Any) -> None:
    """Sets the argument of a callback as result or exception of the future, unless it was cancelled."""
    if future.cancelled():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


async def take_batch(limiter: BatchLimiter, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
    """Returns the outcomes of the requests, which share one call. Raises StoreError."""
    outcomes: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
    limiter.submit(requests, lambda answer: complete(outcomes, answer))
    return await outcomes
