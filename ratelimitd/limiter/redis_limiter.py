"""Takes tokens in Redis, one script call per batch."""

import hashlib
from collections.abc import Sequence
from functools import partial

from redis.exceptions import NoScriptError

from ratelimitd.core.model import TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import BatchLimiter, Done
from ratelimitd.limiter.take_script import decode, encode
from ratelimitd.resources import resource
from ratelimitd.store.link import Link


class RedisLimiter:
    """The limiter that all replicas share."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._script = resource("lua/take.lua").read_text()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def submit(self, requests: Sequence[TakeRequest], done: Done) -> None:
        """One call of the script. With a StoreError tokens may have been taken all the same."""
        keys, arguments = encode(requests)
        call = (len(keys), *keys, *arguments)

        def answered(reply: object) -> None:
            if isinstance(reply, NoScriptError):
                # A restart or SCRIPT FLUSH lost it. EVAL runs it and caches it again in the same round trip.
                self._link.call(("EVAL", self._script, *call), partial(_tell, done, requests))
            else:
                _tell(done, requests, reply)

        self._link.call(("EVALSHA", self._sha, *call), answered)


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
