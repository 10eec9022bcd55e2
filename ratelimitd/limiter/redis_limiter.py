"""Takes tokens in Redis, one script call per batch."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.limiter.script import Argument, decode, encode
from ratelimitd.shipped import shipped
from ratelimitd.store.client import store_errors


class RedisLimiter:
    """The limiter that all replicas share. It has no deadline of its own."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._script = shipped("lua/take.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One outcome per request, in order. Raises StoreError: tokens may have been taken all the same."""
        keys, arguments = encode(requests)
        with store_errors():
            reply = await self._run(keys, arguments)
        return decode(reply, requests)

    async def _run(self, keys: list[str], arguments: list[Argument]) -> object:
        call: Any = self._client  # its evalsha is typed for strings only
        try:
            return await call.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            # A restart or SCRIPT FLUSH lost it. EVAL runs it and caches it again in the same round trip.
            return await call.eval(self._script, len(keys), *keys, *arguments)


_port: type[Limiter] = RedisLimiter
