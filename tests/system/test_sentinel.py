"""Failovers by real Sentinels under load: decisions, policy, commands and the admin service follow."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from ratelimitd.core.model import Request
from ratelimitd.errors import CheckCallError
from ratelimitd.transport.client import check_service
from tests.eventually import eventually
from tests.example_limits import KEY, new_limits_json
from tests.sentinels import Sentineled, Server, sentineled
from tests.system import command
from tests.system.processes import line_with, run, started

TRANSPORTS = ("grpcio", "fast")

CALLERS = 3
PAUSE_S = 0.01
"""Callers of each service, and the pause after each of their calls: it leaves the cores to the servers."""

ADMIN_KEY = "a-key-for-the-test"

MANY = 1_000_000


class Load:
    """Calls one service until it is stopped, for a user of its own, and counts the statuses."""

    def __init__(self, user: str, address: str) -> None:
        self.user = user
        self.statuses: Counter[int] = Counter()
        self._address = address

    async def run(self) -> None:
        """Calls without an end."""
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._call())

    async def _call(self) -> None:
        request = Request("GET", "/api/ping", "example.com", {"x-user-id": self.user}, "10.0.0.1", {})
        while True:
            try:
                self.statuses[(await check_service(self._address, request)).http_status] += 1
            except CheckCallError:  # a decision or an answer to an outage is due in any case
                self.statuses[0] += 1
            await asyncio.sleep(PAUSE_S)

    async def decided_by(self, server: Server) -> None:
        """Waits until a decision from now on is made in this server."""
        seconds, micros = await server.client.time()
        key = f"rate:user:{self.user}"

        async def charged() -> bool:
            last = await server.client.hget(key, "last")
            return last is not None and int(last) > seconds * 1_000_000 + micros

        await eventually(charged, f"{server.address} decides for {self.user}")


@asynccontextmanager
async def running(url: str) -> AsyncIterator[tuple[list[Load], httpx.AsyncClient]]:
    """Runs a service per transport under load, and an admin service. Yields the loads and a client."""
    env = {
        "RATELIMITD_REDIS_URL": url,
        "RATELIMITD_LISTEN": "127.0.0.1:0",
        "RATELIMITD_ADMIN_LISTEN": "127.0.0.1:0",
        "RATELIMITD_ADMIN_KEY": ADMIN_KEY,
        "RATELIMITD_STORE_TIMEOUT_MS": "200",  # on a busy machine a decision may take longer than 50 ms
    }
    async with AsyncExitStack() as stack:
        commands = [("serve", "--transport", transport) for transport in TRANSPORTS] + [("admin",)]
        processes = [await stack.enter_async_context(started(*one, env=env)) for one in commands]
        events = ["listening"] * len(TRANSPORTS) + ["admin_listening"]
        lines = [await line_with(one, f'"{event}"') for one, event in zip(processes, events, strict=True)]
        *services, admin = [json.loads(line)["address"] for line in lines]
        loads = [Load(transport, address) for transport, address in zip(TRANSPORTS, services, strict=True)]
        tasks = [asyncio.create_task(load.run()) for load in loads]
        client = httpx.AsyncClient(
            base_url=f"http://{admin}", headers={"x-admin-key": ADMIN_KEY}, trust_env=False, timeout=20
        )
        try:
            async with client:
                yield loads, client
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def kill(store: Sentineled) -> Server:
    """Kills the master, and returns the new one."""
    old = await store.master()
    old.signal(signal.SIGKILL)
    return await store.master_instead_of(old)


async def command_failover(store: Sentineled) -> Server:
    """Makes the replica the master by a command. The old master stays up as a replica."""
    return await store.fail_over()


async def hang(store: Sentineled) -> Server:
    """Stops the master until another one took its place. It wakes up as a master, and becomes a replica."""
    old = await store.master()
    old.signal(signal.SIGSTOP)
    new = await store.master_instead_of(old)
    old.signal(signal.SIGCONT)
    return new


async def test_everything_follows_failovers_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, back, and to the last server. Decisions that cannot be made are 503, and none is a denial."""
    many = {"global_capacity": MANY, "user_capacity": MANY, "user_api_capacity": MANY}
    # An old master becomes a replica only after seconds, so each failover has one of its own.
    async with sentineled(replicas=3) as store:
        monkeypatch.setenv("RATELIMITD_REDIS_URL", store.url)
        await command.apply(new_limits_json(**many))
        async with running(store.url) as (loads, admin):
            first = await store.master()
            for load in loads:
                await load.decided_by(first)
            for fail_over in (hang, command_failover, kill):
                await store.ready()
                new = await fail_over(store)
                for load in loads:
                    await load.decided_by(new)
                applied = await command.apply(new_limits_json(**many), "--wait")
                assert applied.status == 0
                text = new_limits_json(**many)
                body = {"text": text}
                response = await admin.put("/admin/api/v1/policy", json=body, headers={"if-match": "*"})
                assert response.status_code == 200, response.text
                assert (await new.client.get(KEY)) == text.encode()
    for load in loads:
        assert load.statuses.keys() <= {200, 503}


async def test_a_start_with_a_service_that_no_sentinel_knows_is_one_sentence() -> None:
    async with sentineled(replicas=0, sentinels=1) as store:
        env = {"RATELIMITD_REDIS_URL": store.url.replace("/main", "/mymaster")}
        sentence = (
            f"ratelimitd: the store cannot be used: the Sentinel {store.sentinels[0].address} does not watch "
            "a master named 'mymaster'; it watches main\n"
        )
        assert await run("serve", "--listen", "127.0.0.1:0", env=env) == (1, sentence)
