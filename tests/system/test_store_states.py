"""A service under load on a real Redis that cannot decide for a while."""

import pytest

from tests.example_limits import KEY
from tests.redis_server import redis_server
from tests.store.test_states import QUICK_TO_REPORT, STATES
from tests.system.test_store_credentials import LIMITS, service


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_a_store_that_cannot_decide_denies_no_request(transport: str) -> None:
    async with redis_server(*QUICK_TO_REPORT) as (address, client):
        await client.set(KEY, LIMITS)
        async with service(transport, "--redis-url", f"redis://{address}/0") as (_, load):
            for code in ("MASTERDOWN", "LOADING", "MISCONF"):
                state, _ = STATES[code]
                async with state(client):
                    await load.until(503)
                assert load.statuses.keys() == {200, 503}, code
                load.statuses.clear()
                await load.until(200)
