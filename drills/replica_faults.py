"""Faults of a replica and of the network to it."""

import asyncio
import signal
from functools import partial

from drills.drill import BOTH, Drill, Result, Site, result
from drills.isolation import dropped_packets
from drills.loaded import loaded
from drills.stores import redis_server
from drills.waiting import until


async def killed(site: Site) -> Result:
    """Kills one of the replicas for good."""
    async with redis_server(site.folder) as store, loaded(site, store.url) as (system, sent):
        sent.begin()
        await system.replicas[0].kill()
    return result(sent)


async def frozen(site: Site) -> Result:
    """Freezes one of the replicas, whose connections stay open, and thaws it later."""
    async with redis_server(site.folder) as store, loaded(site, store.url) as (system, sent):
        sent.begin()
        system.replicas[0].signal(signal.SIGSTOP)
        await asyncio.sleep(site.seconds)
        system.replicas[0].signal(signal.SIGCONT)
    return result(sent)


async def cut_off(site: Site) -> Result:
    """Drops all packets to and from one of the replicas, as a lost host or cable does."""
    async with (
        redis_server(site.folder) as store,
        loaded(site, store.url) as (system, sent),
        dropped_packets(system.replicas[0].address.port),
    ):
        sent.begin()
        await asyncio.sleep(site.seconds)
    return result(sent)


async def restarted(site: Site) -> Result:
    """Stops and starts each replica in turn, as a new version is rolled out."""
    async with redis_server(site.folder) as store, loaded(site, store.url) as (system, sent):
        sent.begin()
        for replica in system.replicas:
            await replica.stop()
            await replica.start()
            await until(partial(system.healthy, len(system.replicas)), 30, "every replica is healthy")
        sent.over()
    return result(sent)


DRILLS = [
    Drill("replica-kill", "SIGKILL of one of 3 replicas", killed, transports=BOTH),
    Drill("replica-freeze", "SIGSTOP of one of 3 replicas", frozen, transports=BOTH),
    Drill("replica-packets", "all packets of one of 3 replicas dropped", cut_off, transports=BOTH),
    Drill("rolling-restart", "SIGTERM and start of each replica in turn", restarted, transports=BOTH),
]
