"""Faults of the admin service."""

import asyncio
import random
import signal
import time
from contextlib import suppress
from functools import partial
from os import kill

import httpx
from redis.asyncio import Redis

from drills.drill import Drill, Result, Site, result
from drills.errors import DrillError
from drills.loaded import loaded
from drills.policy import policy_text
from drills.signals import send_sigterm
from drills.stores import redis_server
from drills.system import System
from drills.waiting import until
from ratelimitd.address import TcpAddress
from ratelimitd.core.model import MICRO
from ratelimitd.demo import parts
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.revision import Revision
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.settings import CONFIG_KEY

KILLS = 6
_KEY = "the-write-key-of-a-drill"
_COMMENT_BYTES = 300_000
"""The size of each policy. A larger text takes longer to parse and to commit."""

_RUNNING_S = 10.0


async def killed_in_a_commit(site: Site) -> Result:
    """Kills the admin service at a random instant of a commit, several times."""
    broken, committed = list[str](), 0
    chance = random.Random(site.transport)  # noqa: S311 - no secret
    async with (
        redis_server(site.folder) as store,
        loaded(site, store.url) as (system, sent),
        store.client() as client,
    ):
        revisions = Revisions(client, CONFIG_KEY)
        agreed = partial(_replicas_run_the_newest, revisions, client)
        await until(agreed, _RUNNING_S, "every replica runs the first revision")
        took_s = await _commit(system, _text(0), kill_after_s=None)
        sent.begin()
        for number in range(1, KILLS + 1):
            text, before = _text(number), await revisions.head()
            await _commit(system, text, kill_after_s=chance.uniform(0, 1.5 * took_s))
            broken += await _inconsistencies(revisions, before, text)
            committed += (await revisions.head()).text == text
        with suppress(DrillError):
            await until(agreed, _RUNNING_S, "every replica runs the newest revision")
        if not await agreed():
            broken.append("not every replica runs the newest revision")
        sent.over()
    return result(sent, broken=broken, note=f"{committed} of {KILLS} commits took effect")


async def _inconsistencies(revisions: Revisions, before: Revision, text: str) -> list[str]:
    """Returns what is wrong if neither nothing nor exactly this text was committed after `before`."""
    head, now = await revisions.head(), await revisions.text_at_config_key()
    found = []
    if (head.number, head.text) not in {(before.number, before.text), (before.number + 1, text)}:
        found.append(f"revision {head.number} is neither the old nor the new policy")
    if now != head.text.encode():
        found.append(f"the text in force is not that of revision {head.number}")
    return found


async def _replicas_run_the_newest(revisions: Revisions, client: Redis) -> bool:
    head, (seconds, _) = await revisions.head(), await client.time()
    replicas = await Replicas(client, CONFIG_KEY).listed(seconds * MICRO)
    return head.number > 0 and {replica.number for replica in replicas} == {head.number}


def _text(number: int) -> str:
    return policy_text(comment=f"{number} " + "x" * _COMMENT_BYTES)


async def _commit(system: System, text: str, *, kill_after_s: float | None) -> float:
    """Starts an admin service and asks it to put a policy in force, which a kill may interrupt.

    Returns how long the request took, in seconds.
    """
    address = TcpAddress(LOOPBACK, free_port())
    part = parts.admin_service(address, system.replicas[0].address, _KEY)
    environ = {**system.environ, **part.environ}
    log = system.folder / "admin.log"
    async with (
        child(part.name, part.command, log, environ, stop=send_sigterm) as admin,
        httpx.AsyncClient(trust_env=False, timeout=10) as client,
    ):
        await admin.until(part.ready)
        url = f"http://{address}/admin/api/v1/policy"
        headers = {"X-Admin-Key": _KEY, "If-Match": "*"}
        began_s = time.monotonic()
        request = asyncio.create_task(client.put(url, headers=headers, json={"text": text}))
        if kill_after_s is not None:
            await asyncio.sleep(kill_after_s)
            kill(admin.process.pid, signal.SIGKILL)
        with suppress(httpx.TransportError):
            await request
        return time.monotonic() - began_s


DRILLS = [
    Drill("admin-kill", f"kill -9 of admin in the middle of a commit, {KILLS} times", killed_in_a_commit)
]
