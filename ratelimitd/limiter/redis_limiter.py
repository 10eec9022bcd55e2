"""Takes tokens in Redis, one script call per batch."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from redis.exceptions import NoScriptError

from ratelimitd.core.model import TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import BatchLimiter, Done
from ratelimitd.limiter.script import decode, encode
from ratelimitd.shipped import shipped


class Commands(Protocol):
    """What is needed of a connection to the store: a Link is one."""

    def call(self, arguments: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        """Sends a command. `done` is told its reply, or the exception that came instead."""
        ...


class RedisLimiter:
    """The limiter that all replicas share."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._script = shipped("lua/take.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def begin(self, requests: Sequence[TakeRequest], done: Done) -> None:
        """One call of the script. With a StoreError tokens may have been taken all the same."""
        keys, arguments = encode(requests)
        call = (len(keys), *keys, *arguments)

        def answered(reply: object) -> None:
            if isinstance(reply, NoScriptError):
                # A restart or SCRIPT FLUSH lost it. EVAL runs it and caches it again in the same round trip.
                self._commands.call(("EVAL", self._script, *call), partial(_tell, done, requests))
            else:
                _tell(done, requests, reply)

        self._commands.call(("EVALSHA", self._sha, *call), answered)


def _tell(done: Done, requests: Sequence[TakeRequest], reply: object) -> None:
    if isinstance(reply, Exception):
        done(StoreError(f"the store failed: {reply}"))
        return
    try:
        outcomes = decode(reply, requests)
    except StoreError as error:
        done(error)
    else:
        done(outcomes)


_port: type[BatchLimiter] = RedisLimiter
