"""The limits of the shipped Envoy configuration that protect replicas from more load than they can serve."""

import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from ratelimitd.store.client import open_client
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json, statuses
from tests.system.replicated_front import Front
from tests.system.test_lost_replica import MANY, SETTINGS, loaded, patient, send

CAPACITIES = {f"{tier}_capacity": MANY for tier in ("global", "user", "user_api")}


async def counted(front: Front, client: httpx.AsyncClient, name: str) -> int:
    """Returns a statistic of the cluster of the replicas."""
    text = (await client.get(f"http://{front.admin}/stats?filter=^cluster.ratelimitd.{name}$")).text
    return int(text.rpartition(": ")[2])


async def test_a_request_above_max_requests_gets_503_and_takes_no_token(
    store_url: str, tmp_path: Path
) -> None:
    front = Front(store_url, "grpcio", tmp_path, SETTINGS)
    first = front.replicas[0]
    replies = list[httpx.Response]()
    async with (
        open_client(store_url) as store,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        front.replica(first),
        front.envoy(patient) as envoy,
    ):
        await store.flushall()
        await store.set(KEY, limits_json(**CAPACITIES, **NO_REFILL))
        await envoy.until(partial(front.healthy, client, [first]))

        async def answers(status: int) -> bool:
            url = f"http://{front.listener}/api/ping"
            replies.append(await client.get(url, headers={"X-User-Id": "user2"}))
            return replies[-1].status_code == status

        async def limit(checks: int) -> None:
            name = "circuit_breakers.ratelimitd.default.max_requests"
            (await client.post(f"http://{front.admin}/runtime_modify?{name}={checks}")).raise_for_status()

        await eventually(partial(answers, 200), "the replica decides")
        before = len(replies)
        await limit(0)
        await eventually(partial(answers, 503), "Envoy refuses checks")
        await limit(1)
        await eventually(partial(answers, 200), "Envoy makes checks again")
        refused = statuses(replies[before:])[503]
        assert await counted(front, client, "upstream_rq_active_overflow") == refused
        assert statuses(replies).keys() == {200, 503}
        spent = MANY - round(float(await store.hget("rate:user:user2", "tokens") or 0))
        assert spent == statuses(replies)[200]


async def test_at_most_half_of_the_replicas_are_left_out_because_they_are_slow(
    store_url: str, tmp_path: Path
) -> None:
    """Under overload every replica is slow. The ones that are left would get the load of the others too."""
    front = Front(store_url, "grpcio", tmp_path, SETTINGS)
    async with open_client(store_url) as store:
        await store.flushall()
        await store.set(KEY, limits_json(**CAPACITIES, **NO_REFILL))
        async with loaded(front) as (replicas, client, _):
            for replica in replicas:
                send(replica, signal.SIGSTOP)
            await eventually(_one_is_spared(front, client), "a replica is slow and stays in use")
            assert await counted(front, client, "outlier_detection.ejections_active") == 1
            for replica in replicas:
                send(replica, signal.SIGCONT)


def _one_is_spared(front: Front, client: httpx.AsyncClient) -> Callable[[], Awaitable[bool]]:
    async def spared() -> bool:
        with suppress(httpx.TransportError):
            return await counted(front, client, "outlier_detection.ejections_overflow") > 0
        return False

    return spared
