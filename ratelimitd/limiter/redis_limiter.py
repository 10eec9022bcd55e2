"""Take tokens in Redis, with one script call per batch."""

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from redis.exceptions import NoScriptError, ResponseError

from ratelimitd.bounded_log import BoundedLog
from ratelimitd.core.model import TakeRequest
from ratelimitd.core.ports import BatchCallback, BatchLimiter
from ratelimitd.errors import StoreConnectionError, StoreRedirectError, StoreRefusedError, StoreReplyError
from ratelimitd.limiter.take_script import decode, encode, take_replaced
from ratelimitd.resources import resource
from ratelimitd.store.link import Link
from ratelimitd.store.reply_errors import name_command
from ratelimitd.store.wire import Argument, ReplyCallback


def greeting() -> tuple[tuple[str, ...], ...]:
    """The commands that a link should send first: then the first call of the script takes one round trip."""
    return (("SCRIPT", "LOAD", _script()),)


def _script() -> str:
    return resource("lua/take.lua").read_text()


class Caller(Protocol):
    """Sends commands, as a link does."""

    def call(self, arguments: tuple[Argument, ...], callback: ReplyCallback) -> None:
        """Sends a command. `callback` is called once, and not before this method has returned."""
        ...


class RedisLimiter:
    """The limiter that all replicas share.

    Args:
        link: the connection to the store.
        name: what errors call the store.
        redirects: errors of a node of a cluster, after which the caller makes the call again, somewhere
            else or later.
    """

    def __init__(
        self, link: Caller, *, name: str = "the store", redirects: tuple[type[ResponseError], ...] = ()
    ) -> None:
        self._link = link
        self._name = name
        self._redirects = redirects
        self._log = BoundedLog("ratelimitd.store")
        self._script = _script()
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def submit(self, requests: Sequence[TakeRequest], callback: BatchCallback) -> None:
        """Starts one call of the script. After a StoreError tokens may have been taken all the same."""
        keys, arguments = encode(requests)
        call = (len(keys), *keys, *arguments)

        def answered(reply: object) -> None:
            if isinstance(reply, NoScriptError):
                # After SCRIPT FLUSH, or if the ACL forbids SCRIPT LOAD. EVAL runs and caches the script.
                self._link.call(("EVAL", self._script, *call), partial(self._finish, callback, requests))
            else:
                self._finish(callback, requests, reply)

        self._link.call(("EVALSHA", self._sha, *call), answered)

    def _finish(self, callback: BatchCallback, requests: Sequence[TakeRequest], reply: object) -> None:
        if isinstance(reply, ResponseError):
            callback(self._refused(requests, reply))
            return
        if isinstance(reply, Exception):
            callback(StoreConnectionError(f"{self._name} failed: {reply}"))
            return
        for key, kind in take_replaced(reply):
            self._log.warning("bucket_replaced", key=key, type=kind)
        try:
            outcomes = decode(reply, requests)
        except StoreReplyError as error:
            callback(error)
        else:
            callback(outcomes)

    def _refused(self, requests: Sequence[TakeRequest], reply: ResponseError) -> StoreRefusedError:
        if isinstance(reply, self._redirects):
            error = StoreRedirectError(f"{self._name} failed: {reply}")
            error.__cause__ = reply
            return error
        keys, _ = encode(requests)
        name_command(reply, ("EVALSHA", self._sha, len(keys), *keys), in_cluster=bool(self._redirects))
        return StoreRefusedError(f"{self._name} failed: {reply}")


_caller: type[Caller] = Link
_port: type[BatchLimiter] = RedisLimiter
