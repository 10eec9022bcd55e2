"""Failover behind one address: policy, replica's entry and admin's client follow to the new master."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis
from redis.exceptions import ReadOnlyError

from ratelimitd.control.control import Control
from ratelimitd.decider import open_decider
from ratelimitd.errors import ConflictError, StoreError
from ratelimitd.policy.text import digest_of
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revisions import Revisions
from ratelimitd.settings import load
from ratelimitd.store.client import open_client
from ratelimitd.store.reply_errors import CodedParser
from tests.eventually import eventually
from tests.example_limits import KEY, limits_json
from tests.redis_server import redis_server
from tests.tcp_forwarder import Forwarder, forwarding

BEFORE, AFTER, LATER = limits_json(), limits_json(user_capacity=6), limits_json(user_capacity=7)


@dataclass(frozen=True, slots=True)
class Pair:
    """A master, its replica, and the address in front of the master. `pid` is that of the master."""

    old: Redis
    pid: int
    new: Redis
    new_port: int
    address: Forwarder

    async def promote(self) -> None:
        """Makes the replica the master to which the address leads."""
        await self.new.replicaof("NO", "ONE")
        self.address.target = self.new_port


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Runs two servers, the second of which has copied the first."""
    no_delay = ("--repl-diskless-sync-delay", "0")
    async with redis_server(*no_delay) as (old_address, old), redis_server(*no_delay) as (new_address, new):
        old_port, new_port = (int(one.rpartition(":")[2]) for one in (old_address, new_address))
        await new.replicaof("127.0.0.1", str(old_port))

        async def copied() -> bool:
            return bool((await new.info("replication"))["master_link_status"] == "up")

        await eventually(copied, "the replica has a copy")
        pid = (await old.info("server"))["process_id"]
        async with forwarding(old_port) as address:
            yield Pair(old, pid, new, new_port, address)
        os.kill(pid, signal.SIGCONT)


async def demote(pair: Pair) -> None:
    """Leaves the old master running as a replica of the new one."""
    await pair.promote()
    await pair.old.replicaof("127.0.0.1", str(pair.new_port))


async def freeze(pair: Pair) -> None:
    """Leaves the old master hanging with its connections open."""
    os.kill(pair.pid, signal.SIGSTOP)
    await pair.promote()


async def isolate(pair: Pair) -> None:
    """Leaves the old master running as a master that only open connections lead to."""
    await pair.promote()


@pytest.mark.parametrize("fail_over", [demote, freeze, isolate])
async def test_everything_follows_to_the_new_master(
    pair: Pair, fail_over: Callable[[Pair], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if fail_over is isolate:
        monkeypatch.setattr("ratelimitd.store.fresh_pool.MAX_AGE_S", 1.0)
    url = f"redis://127.0.0.1:{pair.address.port}/0"
    settings = load({"RATELIMITD_REDIS_URL": url}, {})
    control_of_new = Control(pair.new, settings)
    async with open_client(url) as client, open_decider(settings):
        control = Control(client, settings)
        await control.apply(BEFORE, author="alice", note="", expected=Expected(0))
        await control.wait(1, 10)

        async def copied() -> bool:
            return (await control_of_new.current()).revision.number == 1

        await eventually(copied, "the replica has the policy")
        await fail_over(pair)
        await control_of_new.apply(AFTER, author="bob", note="", expected=Expected(1))

        async def listed() -> bool:
            replicas = (await control_of_new.status()).replicas
            return [(one.digest, one.silent) for one in replicas] == [(digest_of(AFTER), False)]

        await eventually(listed, "the change is in force on the replica, and the new master lists it")

        async def subscribed() -> bool:
            channel = Revisions(client, KEY).channel
            return bool((await pair.new.pubsub_numsub(channel))[0][1])

        await eventually(subscribed, "the replica listens on the new master")

        async def changed() -> bool:
            with suppress(StoreError, ConflictError, TimeoutError):
                async with asyncio.timeout(1):
                    await control.apply(LATER, author="carol", note="", expected=Expected(2))
            return (await control_of_new.current()).revision.text == LATER

        await eventually(changed, "the client of the admin service writes to the new master")


async def test_the_first_write_after_a_failover_reaches_the_new_master(pair: Pair) -> None:
    """The old master refuses it, so it is sent again. A store that stays read-only is an error."""
    url = f"redis://127.0.0.1:{pair.address.port}/0"
    async with open_client(url) as client:
        control = Control(client, load({"RATELIMITD_REDIS_URL": url}, {}))
        await control.current()
        await demote(pair)
        applied = await control.apply(BEFORE, author="alice", note="", expected=None)
        assert (applied.revision.number, await pair.new.get(KEY)) == (1, BEFORE.encode())
        await pair.new.replicaof("127.0.0.1", "1")
        with pytest.raises(StoreError, match="READONLY"):
            await control.apply(AFTER, author="alice", note="", expected=None)


def test_a_script_refused_by_a_read_only_redis_6_may_be_sent_again() -> None:
    text = "ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -READONLY You can't"
    error = CodedParser.parse_error(text)
    assert (type(error), str(error)) == (ReadOnlyError, text)
