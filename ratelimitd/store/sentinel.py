"""Finds the master that Sentinels watch, and notices when it is another one.

All Sentinels are asked at once, so one that is down or hangs costs little time. A Sentinel that was cut off
may name an old master: the answer with the highest configuration epoch is the newest one.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import RedisError

from ratelimitd.store.access import StoreAccess
from ratelimitd.store.one_sentinel import Answer, Sentinel, UnknownServiceError, answer_of
from ratelimitd.store.reply_errors import UnsupportedStoreError
from ratelimitd.store_url import Node

FIRST_ANSWER_S = 1.0
"""How long the first answer may take."""

OTHER_ANSWERS_S = 0.1
"""How much later than the first answer the others may arrive. A Sentinel that hangs delays connects."""


class Survey(NamedTuple):
    """What the Sentinels answered together.

    Args:
        masters: the addresses with the highest epoch; several only if some Sentinels use host names.
        failures: why the other Sentinels named no master, by their address.
    """

    masters: tuple[Node, ...]
    failures: dict[Node, Exception]


class Sentinels:
    """The Sentinels of a store URL. Call it to locate the master; it is a `Locate`.

    Args:
        access: the way to the store. Its URL may change.
    """

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._sentinels: dict[tuple[Node, str, int], Sentinel] = {}

    async def __call__(self) -> Node:
        """Returns the address of the master. Raises RedisError; UnsupportedStoreError if the URL is wrong."""
        return (await self.survey()).masters[0]

    async def survey(self) -> Survey:
        """Asks all Sentinels. Raises RedisError if none of them names a master."""
        asking = {sentinel.ask(): sentinel.node for sentinel in await self._of_url()}
        await _first_and_soon(asking)
        answers: list[Answer] = []
        failures: dict[Node, Exception] = {}
        for task, node in asking.items():
            if not task.done():
                failures[node] = TimeoutError("no answer in time")
            elif isinstance(found := answer_of(task), Answer):
                answers.append(found)
            else:
                failures[node] = found
        if not answers:
            raise self._failed(failures)
        newest = max(answer.epoch for answer in answers)
        masters = dict.fromkeys(answer.master for answer in answers if answer.epoch == newest)
        return Survey(tuple(masters), failures)

    async def _of_url(self) -> "list[Sentinel]":
        """Returns the Sentinels that the URL names now. After a change, the connections are new ones."""
        url, version = self._access.url, self._access.version
        named = [(node, url.service, version) for node in url.nodes]
        gone = [self._sentinels.pop(key) for key in self._sentinels.keys() - named]
        await asyncio.gather(*(sentinel.aclose() for sentinel in gone))
        for key in named:
            node, service, _ = key
            self._sentinels.setdefault(key, Sentinel(node, service, self._access.sentinel_arguments))
        return [self._sentinels[key] for key in dict.fromkeys(named)]

    def _failed(self, failures: dict[Node, Exception]) -> RedisError:
        """Returns the error of a survey without an answer. A wrong URL is a better reason than an outage."""
        for kind in (UnknownServiceError, UnsupportedStoreError):
            for error in failures.values():
                if isinstance(error, kind):
                    return error
        return NotConnectedError(
            f"no Sentinel names the master {self._access.url.service!r}: {in_words(failures)}"
        )

    async def aclose(self) -> None:
        """Closes the connections."""
        await asyncio.gather(*(sentinel.aclose() for sentinel in self._sentinels.values()))


@asynccontextmanager
async def locating(access: StoreAccess) -> AsyncIterator[Sentinels | None]:
    """Yields what finds the store of a URL that names Sentinels; None for another URL."""
    if access.url.topology != "sentinel":
        yield None
        return
    sentinels = Sentinels(access)
    try:
        yield sentinels
    finally:
        await sentinels.aclose()


def in_words(failures: Mapping[Node, Exception]) -> str:
    """Returns the failures of Sentinels as text. The driver's errors name the address in most cases."""
    return "; ".join(
        str(error) if str(node) in str(error) else f"{node}: {error}" for node, error in failures.items()
    )


async def _first_and_soon(asking: Collection["asyncio.Task[Answer | Exception]"]) -> None:
    """Waits for all tasks, but not much longer than for the first answer."""
    loop = asyncio.get_running_loop()
    end_s, waiting = loop.time() + FIRST_ANSWER_S, set(asking)
    while waiting and (left_s := end_s - loop.time()) > 0:
        done, waiting = await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if any(isinstance(answer_of(task), Answer) for task in done):
            end_s = min(end_s, loop.time() + OTHER_ANSWERS_S)
