"""Takes tokens in Redis, one script call per batch."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import NoScriptError

from ratelimitd.core.model import Outcome, TakeRequest
from ratelimitd.core.ports import Limiter
from ratelimitd.limiter.script import Argument, decode, encode
from ratelimitd.shipped import shipped
from ratelimitd.store.client import store_errors


class Commands(Protocol):
    """What is needed of a connection to the store: a Link has it, and so has every client of redis-py."""

    async def execute_command(self, *arguments: Any) -> Any:
        """The reply to one command. Raises what `store_errors` knows."""
        ...


class RedisLimiter:
    """The limiter that all replicas share. It has no deadline of its own."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._script = shipped("lua/take.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def take(self, requests: Sequence[TakeRequest]) -> Sequence[Outcome]:
        """One outcome per request, in order. Raises StoreError: tokens may have been taken all the same."""
        keys, arguments = encode(requests)
        with store_errors():
            reply = await self._run(keys, arguments)
        return decode(reply, requests)

    async def _run(self, keys: list[str], arguments: list[Argument]) -> object:
        execute = self._commands.execute_command
        try:
            return await execute("EVALSHA", self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            # A restart or SCRIPT FLUSH lost it. EVAL runs it and caches it again in the same round trip.
            return await execute("EVAL", self._script, len(keys), *keys, *arguments)


_port: type[Limiter] = RedisLimiter
