"""A real replica while its store hangs: it answers without asking, and decides again afterwards."""

import os
import signal
from pathlib import Path

import pytest

from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from tests.eventually import eventually
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.system.one_replica import WAYS, OneReplica, one_replica

LIMITS = limits_json(**NO_REFILL, global_capacity=1_000_000, user_capacity=3, user_api_capacity=3)
ERRORS = "ratelimitd_store_errors_total"
SENT = 100


async def until_decided(replica: OneReplica) -> None:
    """Waits until the replica decides."""

    async def decided() -> bool:
        return await replica.status_of("probe") in {200, 429}

    await eventually(decided, "a decision by the store")


@pytest.mark.parametrize("way", WAYS)
async def test_while_the_store_hangs_no_request_waits_or_costs_tokens(way: str, tmp_path: Path) -> None:
    async with embedded_store() as url, open_client(url) as store:
        await store.set(KEY, LIMITS)
        pid = int((await store.info("server"))["process_id"])
        async with one_replica(way, url, tmp_path, {}) as replica:
            await until_decided(replica)
            os.kill(pid, signal.SIGSTOP)
            try:
                await replica.until_away()
                before = await replica.metric(ERRORS, reason="away")
                assert await replica.statuses("alice", SENT) == {503: SENT}
                assert await replica.metric(ERRORS, reason="away") - before == SENT
            finally:
                os.kill(pid, signal.SIGCONT)
            await until_decided(replica)
            assert await replica.statuses("alice", 6) == {200: 3, 429: 3}
