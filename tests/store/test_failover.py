"""A failover behind one address: a virtual IP or a Service that moves from one real store to another."""

import asyncio

import pytest

from ratelimitd.core.model import Limit
from ratelimitd.errors import StoreError
from ratelimitd.limiter.redis_limiter import RedisLimiter, greeting
from ratelimitd.process.loopback import LOOPBACK
from ratelimitd.store.client import connector, open_client
from ratelimitd.store.embedded import embedded_store
from ratelimitd.store.link import Link
from tests.core.take_requests import take_request
from tests.delaying_proxy import delaying_proxy, port_of
from tests.eventually import eventually
from tests.script_limiter import take_batch


@pytest.mark.parametrize("stale", ["yes", "no"])
async def test_a_link_to_a_store_that_became_a_replica_reaches_the_new_primary(stale: str) -> None:
    """The old connection stays open. With `replica-serve-stale-data no` it answers MASTERDOWN."""
    async with (
        embedded_store() as old_url,
        embedded_store() as new_url,
        open_client(old_url) as old,
        open_client(new_url) as new,
        delaying_proxy(port_of(old_url)) as proxy,
        Link(connector(f"redis://{LOOPBACK}:{proxy.port}/0"), greeting=greeting()) as link,
    ):
        limiter = RedisLimiter(link)

        async def takes() -> bool:
            try:
                (outcome,) = await take_batch(limiter, [take_request({"k": Limit(9, 0.001)})])
            except StoreError:
                await asyncio.sleep(0)
                return False
            return outcome.allowed

        assert await takes()
        await old.config_set("replica-serve-stale-data", stale)
        proxy.target = port_of(new_url)
        await old.replicaof(LOOPBACK, "1")  # a replica of nothing: a real one would delay the end of the test
        await eventually(takes, "the link takes tokens in the new primary")
        assert await new.exists("k")
        assert link.opened > 1
