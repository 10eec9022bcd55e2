"""A burst on one leased bucket, over three replicas in processes of their own."""

import json
import time
from collections import Counter
from contextlib import AsyncExitStack

import pytest
from redis.asyncio import Redis

from ratelimitd.core.lease import FAIR_PART, lease_terms
from ratelimitd.core.model import Limit
from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.example_limits import KEY
from tests.system.check_load import load_on
from tests.system.processes import line_with, started

GLOBAL = Limit(300, 10.0)
REPLICAS = 3


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_burst_over_three_replicas_is_exact(store: Redis, store_url: str, transport: str) -> None:
    """They admit no more than the law, and no less than the law without the reserve and unspent leases."""
    terms, large = lease_terms(GLOBAL), {"capacity": 1_000_000, "refill_rate": 1}
    assert terms is not None
    tiers = {"global": {**GLOBAL._asdict(), "lease": "auto"}, "user": large, "user_api": large}
    await store.set(KEY, json.dumps({"tiers": tiers}))
    settings = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_STORE_TIMEOUT_MS": "5000"}
    options = ("--transport", transport, "--leave-s", "0", "--metrics-listen", "off")
    async with AsyncExitStack() as stack:
        targets = [f"{LOOPBACK}:{free_port()}" for _ in range(REPLICAS)]
        replicas = [
            await stack.enter_async_context(started("serve", "--listen", target, *options, env=settings))
            for target in targets
        ]
        for replica in replicas:
            await line_with(replica, "listening")
        began_s = time.monotonic()
        async with AsyncExitStack() as loads:
            counts = [await loads.enter_async_context(load_on(target)) for target in targets]
            for count in counts:
                await count.until(429)
        lasted_s = time.monotonic() - began_s
    statuses = sum((count.statuses for count in counts), start=Counter[int]())
    assert set(statuses) == {200, 429}
    assert statuses[200] <= GLOBAL.capacity + GLOBAL.refill_rate * lasted_s
    assert statuses[200] >= terms.limit.capacity - REPLICAS * GLOBAL.capacity // FAIR_PART
