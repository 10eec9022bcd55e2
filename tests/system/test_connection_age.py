"""A maximum age of connections makes Envoy connect again, and loses no request."""

import re
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.system.test_large_requests import front

RENEWALS = 3


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_envoy_connects_again_and_every_request_is_charged(
    transport: str, store_url: str, tmp_path: Path
) -> None:
    charged: list[bool] = []
    async with front(transport, store_url, tmp_path, "--max-connection-age-s", "1") as (client, admin):
        counter = f"http://{admin}/stats?filter=cluster.ratelimitd.upstream_cx_total"

        async def connections() -> int:
            found = re.search(r": (\d+)", (await client.get(counter)).text)
            assert found is not None
            return int(found[1])

        first = await connections()

        async def renewed() -> bool:
            charged.extend(["ratelimit" in (await client.get("/api/ping")).headers for _ in range(20)])
            return await connections() >= first + RENEWALS

        await eventually(renewed, "Envoy has connected again")
    assert all(charged)
