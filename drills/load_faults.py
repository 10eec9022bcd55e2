"""Too much load, too many connections, too few file descriptors."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from drills.cpu_quota import cpu_quota
from drills.drill import BOTH, Drill, Result, Site, result
from drills.errors import DrillError, NotPossibleError
from drills.isolation import need
from drills.load import LoadSpec
from drills.loaded import loaded
from drills.records import failed
from drills.stores import redis_server
from drills.system import System
from drills.traffic import Traffic, traffic
from drills.waiting import until
from ratelimitd.address import TcpAddress

CONNECTIONS = 10_000

FACTOR = 10
QUOTA = 0.2
"""The share of a core that the three replicas get together during the overload.

This machine also runs the clients and Envoy. With a full core for the replicas they could not send enough.
"""

CHECKS_S = 0.1
"""The seconds of work that may wait: a limit of so many times the capacity, as operations.md recommends."""

DESCRIPTORS = 200
"""The limit of open files of a replica that shall run out of them. 120 are for connections."""

_SPARE_DESCRIPTORS = 100
_LOW_RATE = 50.0
_MEASURED_S = 3.0
_CALLERS = 16
"""Connections of the measurement of the capacity. They send as fast as they get responses."""
_MORE_THAN_SERVED = 2000.0
_LOGGED_S = 15.0
_OPENED_S = 60.0


async def many_connections(site: Site) -> Result:
    """Opens 10,000 connections beside those of the load. All of them send requests in turn."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < CONNECTIONS + _SPARE_DESCRIPTORS:
        raise NotPossibleError(f"needs a limit of {CONNECTIONS + _SPARE_DESCRIPTORS} open files (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    async with redis_server(site.folder) as store, loaded(site, store.url) as (system, sent):
        spec = LoadSpec(system.front.host, system.front.port, 2 * site.rate, warm=CONNECTIONS)
        sent.begin()
        async with traffic(spec) as more:
            await until(_connected(system), _OPENED_S, f"Envoy has {CONNECTIONS} connections")
            sent.over()
            await asyncio.sleep(max(site.seconds, CONNECTIONS / spec.rate))
    records = [*sent.records, *more.records]
    return Result(
        f"{site.rate:g}/s and {spec.rate:g}/s on {CONNECTIONS} connections", records, sent.recovery_s
    )


def _connected(system: System) -> Callable[[], Awaitable[bool]]:
    """Returns the condition that Envoy holds all connections."""

    async def connected() -> bool:
        return await system.connections() >= CONNECTIONS

    return connected


async def overloaded(site: Site, *, limited: bool) -> Result:
    """Sends ten times as many requests as the replicas can serve.

    Args:
        site: where the drill runs.
        limited: whether Envoy gets the limit of checks that operations.md recommends for these replicas.
    """
    async with (
        cpu_quota() as quota,
        redis_server(site.folder) as store,
        loaded(site, store.url, rate=_LOW_RATE) as (system, sent),
    ):
        quota.limit([pid for replica in system.replicas for pid in replica.pids], QUOTA)
        capacity = await _capacity(system)
        if limited:
            await system.limit_checks(max(1, round(CHECKS_S * capacity)))
        spec = LoadSpec(system.front.host, system.front.port, FACTOR * capacity)
        sent.begin()
        async with traffic(spec) as flood:
            await asyncio.sleep(site.seconds)
            sent.over()
    served = (
        _decided(flood, sent.began_s, sent.over_s) + _decided(sent, sent.began_s, sent.over_s)
    ) / site.seconds
    return Result(
        f"{_LOW_RATE:g}/s and {spec.rate:.0f}/s",
        [*sent.records, *flood.records],
        sent.recovery_s,
        note=f"decided {served:.0f}/s meanwhile; could decide about {capacity:.0f}/s",
    )


async def _capacity(system: System) -> float:
    """Returns how many requests per second the replicas decide when a few callers wait for each response."""
    spec = LoadSpec(
        system.front.host, system.front.port, _MORE_THAN_SERVED, max_connections=_CALLERS, timeout_s=1
    )
    async with traffic(spec) as more:
        await asyncio.sleep(_MEASURED_S)
    return _LOW_RATE + sum(not failed(record) for record in more.records) / _MEASURED_S


def _decided(sent: Traffic, began_s: float, over_s: float) -> int:
    """Returns how many requests were decided that were due in this time."""
    return sum(not failed(record) for record in sent.records if began_s <= record.due_s < over_s)


async def no_descriptors(site: Site) -> Result:
    """Opens more connections to a replica than it has file descriptors for."""
    need("prlimit")
    wrapper = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}", "--")
    async with (
        redis_server(site.folder) as store,
        loaded(site, store.url, wrapper=wrapper) as (system, sent),
    ):
        first = system.replicas[0]
        sent.begin()
        async with _connections(first.address, 2 * DESCRIPTORS):
            await asyncio.sleep(site.seconds)
            exhausted = await _logs(system, "connections_exhausted")
        sent.over()
        available = await _logs(system, "connections_available")
    broken = [
        f"the log has no {event}"
        for event, found in (("connections_exhausted", exhausted), ("connections_available", available))
        if not found
    ]
    return result(sent, broken=broken)


async def _logs(system: System, event: str) -> bool:
    async def logged() -> bool:
        return system.logged(event) > 0

    with suppress(DrillError):
        await until(logged, _LOGGED_S, f"{event} in a log")
    return await logged()


@asynccontextmanager
async def _connections(address: TcpAddress, number: int) -> AsyncIterator[None]:
    """Opens connections that send nothing, and closes them at the end of the block."""
    async with AsyncExitStack() as stack:
        for _ in range(number):
            with suppress(OSError):
                _, writer = await asyncio.open_connection(address.host, address.port)
                stack.callback(writer.close)
        yield


DRILLS = [
    Drill(
        "overload",
        f"{FACTOR} times the load that the replicas can serve",
        partial(overloaded, limited=False),
        transports=BOTH,
    ),
    Drill(
        "overload-limited",
        f"{FACTOR} times the load, max_requests for these replicas",
        partial(overloaded, limited=True),
        transports=BOTH,
    ),
    Drill("connections", f"{CONNECTIONS} connections to Envoy", many_connections),
    Drill(
        "descriptors",
        "EMFILE: a replica without free file descriptors",
        no_descriptors,
        transports=BOTH,
    ),
]
