"""A burst on one leased bucket, over three replicas in processes of their own."""

import json
import time
from collections import Counter
from contextlib import AsyncExitStack

import httpx
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis

from ratelimitd.core.lease import lease_terms
from ratelimitd.core.model import Limit
from ratelimitd.process.loopback import LOOPBACK, free_port
from tests.example_limits import KEY
from tests.system.check_load import load_on
from tests.system.processes import line_with, started

GLOBAL = Limit(200, 10.0)
TRANSPORTS = ("grpcio", "fast", "fast")


async def leased_tokens(client: httpx.AsyncClient, addresses: list[str]) -> Counter[str]:
    """Returns how many tokens all replicas have leased, and spent of these, by the metric's name."""
    sums = Counter[str]()
    for address in addresses:
        text = (await client.get(f"http://{address}/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ratelimitd_leased_tokens"):
                    sums[sample.name] += int(sample.value)
    return sums


async def test_a_burst_over_three_replicas_is_exact(store: Redis, store_url: str) -> None:
    """They admit no more than the law, and no less than what the store had, the reserve aside.

    Each replica asks until it is denied, so the bucket is empty after the last first denial. It has lost the
    reserve at most, and leased tokens that nobody has spent.
    """
    terms, large = lease_terms(GLOBAL), {"capacity": 1_000_000, "refill_rate": 1}
    assert terms is not None
    tiers = {"global": {**GLOBAL._asdict(), "lease": "auto"}, "user": large, "user_api": large}
    await store.set(KEY, json.dumps({"tiers": tiers}))
    settings = {"RATELIMITD_REDIS_URL": store_url, "RATELIMITD_STORE_TIMEOUT_MS": "5000"}
    async with AsyncExitStack() as stack:
        targets, metrics = ([f"{LOOPBACK}:{free_port()}" for _ in TRANSPORTS] for _ in range(2))
        replicas = [
            await stack.enter_async_context(
                started(
                    *("serve", "--listen", target, "--metrics-listen", address),
                    *("--transport", transport, "--leave-s", "0"),
                    env=settings,
                )
            )
            for target, address, transport in zip(targets, metrics, TRANSPORTS, strict=True)
        ]
        for replica in replicas:
            await line_with(replica, "listening")
        began_s = time.monotonic()
        async with AsyncExitStack() as loads:
            counts = [await loads.enter_async_context(load_on(target)) for target in targets]
            for count in counts:
                await count.until(429)
        lasted_s = time.monotonic() - began_s
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        tokens = await leased_tokens(client, metrics)
    statuses = sum((count.statuses for count in counts), start=Counter[int]())
    assert set(statuses) == {200, 429}
    leased, spent = (tokens[f"ratelimitd_leased_tokens{end}"] for end in ("_total", "_spent_total"))
    assert 0 < spent <= leased
    assert statuses[200] <= GLOBAL.capacity + GLOBAL.refill_rate * lasted_s
    assert statuses[200] >= terms.limit.capacity - (leased - spent) - 1
