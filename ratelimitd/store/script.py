"""A Lua script on the store, without SCRIPT LOAD: an ACL may forbid it, and EVAL loads the script as well."""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from ratelimitd.resources import resource


class Script:
    """A script of this package, such as `lua/policy_commit.lua`."""

    def __init__(self, client: Redis, path: str) -> None:
        self._client = client
        self._source = resource(path).read_text()
        self._sha = hashlib.sha1(self._source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, keys: Sequence[str], arguments: Sequence[str | int | bytes]) -> Any:
        """Returns the reply of the script. Raises RedisError."""
        call = (len(keys), *keys, *arguments)
        try:
            return await self._client.execute_command("EVALSHA", self._sha, *call)  # type: ignore[no-untyped-call] # it is untyped
        except NoScriptError:
            return await self._client.execute_command("EVAL", self._source, *call)  # type: ignore[no-untyped-call] # it is untyped
