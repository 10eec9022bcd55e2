"""A replica that is killed, or hangs, behind a real Envoy under load."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bench.process_usage import process_tree
from ratelimitd.process.child import Child
from ratelimitd.resources import resource
from ratelimitd.store.client import open_client
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses
from tests.system.changed_front import http_filters, virtual_host
from tests.system.replicated_front import Front, send_until

MANY = 1_000_000
CALLERS = 8
"""The calls in flight are at most this many, because a caller waits for each response."""
TIMEOUT = "1s"
"""The timeout of a check. With the shipped 0.25 s, a busy machine would cause errors of its own."""
SETTINGS = {"RATELIMITD_STORE_TIMEOUT_MS": "800", "RATELIMITD_LEAVE_S": "0"}


def patient(config: Any) -> None:
    """Gives checks more time, and answers requests in Envoy instead of a backend."""
    http_filters(config)["envoy.filters.http.ext_authz"]["grpc_service"]["timeout"] = TIMEOUT
    limited = virtual_host(config)["routes"][0]
    del limited["route"]
    limited["direct_response"] = {"status": 200}


def send(replica: Child, number: signal.Signals) -> None:
    """Sends a signal to all processes of a replica at once."""
    for pid in list(process_tree(replica.process.pid)):
        os.kill(pid, number)


@asynccontextmanager
async def loaded(front: Front) -> AsyncIterator[tuple[list[Child], httpx.AsyncClient, list[httpx.Response]]]:
    """Runs the system; yields the replicas, a client of Envoy, and a list for the responses of callers.

    The callers send requests until the end of the block. Then the list is complete.
    """
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client, AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(front.replica(address)) for address in front.replicas]
        envoy = await stack.enter_async_context(front.envoy(patient))
        await envoy.until(partial(front.healthy, client, front.replicas))
        ended, replies = asyncio.Event(), list[httpx.Response]()
        url = f"http://{front.listener}/api/ping"
        callers = [asyncio.create_task(send_until(ended, client, url, replies)) for _ in range(CALLERS)]
        try:
            await until_more(replies)
            yield replicas, client, replies
            await until_more(replies)
        finally:
            ended.set()
            await asyncio.gather(*callers)


async def until_more(replies: list[httpx.Response]) -> None:
    """Waits for four more responses for each caller, so that each replica in use gets some of the calls."""
    expected = len(replies) + 4 * CALLERS

    async def arrived() -> bool:
        return len(replies) >= expected

    await eventually(arrived, "more responses")


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_lost_replica_costs_at_most_the_calls_in_flight(
    store_url: str, tmp_path: Path, transport: str
) -> None:
    """One replica hangs until Envoy does not call it any more, goes on, and is then killed."""
    front = Front(store_url, transport, tmp_path, SETTINGS)
    capacities = {f"{tier}_capacity": MANY for tier in ("global", "user", "user_api")}
    async with open_client(store_url) as store:
        await store.flushall()
        await store.set(KEY, limits_json(**capacities, **NO_REFILL))
        async with loaded(front) as ((lost, *_), client, replies):
            send(lost, signal.SIGSTOP)
            await eventually(
                partial(front.healthy, client, front.replicas[1:]), "the hanging one is left out"
            )
            await until_more(replies)
            hung = len(replies) - statuses(replies).get(200, 0)
            send(lost, signal.SIGCONT)
            await eventually(partial(front.healthy, client, front.replicas), "it gets calls again")
            await until_more(replies)
            send(lost, signal.SIGKILL)
            await eventually(partial(front.healthy, client, front.replicas[1:]), "the dead one is left out")
        spent = MANY - round(float(await store.hget("rate:user:user1", "tokens") or 0))
    counts = statuses(replies)
    assert counts.keys() <= {200, 503}
    assert hung <= CALLERS
    assert counts.get(503, 0) - hung <= CALLERS
    assert (
        counts[200] <= spent <= len(replies)
    )  # a call that was lost may have taken its token, but no call took two


def test_a_retry_is_limited_to_calls_that_no_replica_processed() -> None:
    config = yaml.safe_load(resource("envoy/envoy.yaml").read_text())
    service = http_filters(config)["envoy.filters.http.ext_authz"]["grpc_service"]
    retries = service["retry_policy"]
    assert set(retries["retry_on"].split(",")) == {
        "connect-failure",
        "refused-stream",
        "reset-before-request",
    }
    # Envoy uses the longest pause before a retry as the timeout of an attempt, too.
    seconds = [
        float(text.removesuffix("s"))
        for text in (retries["retry_back_off"]["max_interval"], service["timeout"])
    ]
    assert seconds[0] > seconds[1]
