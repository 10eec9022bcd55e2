"""Tests of changing the password of the store's user, on a real Redis."""

from contextlib import AbstractAsyncContextManager

import pytest
from redis.asyncio import Redis

from ratelimitd import settings
from ratelimitd.app import run_service
from ratelimitd.process.loopback import free_port
from ratelimitd.transport.listener import Listener
from tests.eventually import eventually
from tests.redis_server import redis_server
from tests.system.command import run
from tests.system.processes import line_with, started

USER = "ratelimitd"
OLD, NEW = "old-secret", "new-secret"


def replica(address: str, password: str) -> AbstractAsyncContextManager[Listener]:
    """Runs a replica that uses this password."""
    flags = {"redis_url": f"redis://{USER}:{password}@{address}/0", "listen": "127.0.0.1:0"}
    return run_service(settings.load({}, flags=flags | {"metrics_listen": "off"}), "grpcio")


async def decided(target: object) -> bool:
    """Returns whether a service decides a request."""
    done = await run("check", "--user", "u1", "--path", "/", "--target", str(target), "--timeout-s", "10")
    return done.status == 0


async def set_user(store: Redis, *rules: str) -> None:
    """Changes the user of the service."""
    await store.execute_command("ACL", "SETUSER", USER, *rules)  # type: ignore[no-untyped-call] # it is untyped


async def reconnect(store: Redis) -> None:
    """Ends all connections of the user."""
    await store.execute_command("CLIENT", "KILL", "USER", USER)  # type: ignore[no-untyped-call] # it is untyped


async def test_adding_restarting_and_removing_loses_no_decision() -> None:
    async with redis_server() as (address, store):
        await set_user(store, "on", f">{OLD}", "allkeys", "allchannels", "allcommands")
        async with replica(address, OLD) as old:
            assert await decided(old.address)
            await set_user(store, f">{NEW}")
            async with replica(address, NEW) as new:
                assert await decided(old.address)
                assert await decided(new.address)
        async with replica(address, NEW) as new:
            await set_user(store, f"<{OLD}")
            assert await decided(new.address)
            await reconnect(store)

            async def again() -> bool:
                return await decided(new.address)

            await eventually(again, "the replica decides on a new connection")


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_replica_that_was_missed_logs_wrongpass_and_no_password(transport: str) -> None:
    async with redis_server() as (address, store):
        await set_user(store, "on", f">{OLD}", "allkeys", "allchannels", "allcommands")
        target = f"127.0.0.1:{free_port()}"
        url = f"redis://{USER}:{OLD}@{address}/0"
        serve = ("serve", "--transport", transport, "--redis-url", url, "--listen", target, "--leave-s", "0")
        async with started(*serve) as process:
            await line_with(process, '"listening"')
            await set_user(store, f">{NEW}", f"<{OLD}")
            assert await decided(target)
            await reconnect(store)

            async def undecided() -> bool:
                return not await decided(target)

            await eventually(undecided, "decisions lack a store")
            line = await line_with(process, "store_away")
            assert "WRONGPASS invalid username-password pair" in line
            assert OLD not in line
