"""The number of log lines of a real service while the store keeps failing, and while requests are denied."""

import asyncio
import itertools
import json
from collections import Counter
from typing import Any

import grpc
import pytest
from redis.asyncio import Redis

from ratelimitd.address import TcpAddress
from ratelimitd.core.grpc_code import GrpcCode
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE
from tests.delaying_proxy import delaying_proxy, port_of
from tests.eventually import WAIT_S
from tests.example_limits import KEY, NO_REFILL, limits_json
from tests.system.processes import started

LINES_PER_MINUTE = 8
"""Lines about failures in a minute, at most, as docs/operations.md promises."""


class Load:
    """Sends requests one after the other, and counts the codes of the responses."""

    def __init__(self, address: TcpAddress) -> None:
        self.codes: Counter[int] = Counter()
        self.ends = False
        self._address = address

    async def run(self) -> None:
        """Sends requests, half of them of ten greedy users, until `ends` is set."""
        async with grpc.aio.insecure_channel(str(self._address)) as channel:
            check = channel.unary_unary(
                f"/{SERVICE}/Check",
                request_serializer=CheckRequest.SerializeToString,
                response_deserializer=CheckResponse.FromString,
            )
            for number in itertools.takewhile(lambda _: not self.ends, itertools.count()):
                request = CheckRequest()
                http = request.attributes.request.http
                http.method, http.path = "GET", "/api/ping"
                http.headers["x-user-id"] = f"u{number % 20}" if number % 2 else f"other{number}"
                response = await check(request, timeout=WAIT_S)
                self.codes[response.status.code] += 1


async def lines_until(event: str, output: asyncio.StreamReader) -> list[dict[str, Any]]:
    """Returns the lines up to the one with this event."""
    lines: list[dict[str, Any]] = []
    async with asyncio.timeout(WAIT_S):
        while not lines or lines[-1]["event"] != event:
            lines.append(json.loads(await output.readline()))
    return lines


@pytest.mark.parametrize("transport", ["grpcio", "fast"])
async def test_dropped_replies_and_denials_cause_few_lines_with_counts(
    store: Redis, store_url: str, transport: str
) -> None:
    await store.set(KEY, limits_json(global_capacity=1_000_000, **NO_REFILL))
    address = TcpAddress(LOOPBACK, free_port())
    flags = ("--listen", str(address), "--transport", transport, "--leave-s", "0", "--metrics-listen", "")
    load = Load(address)
    async with delaying_proxy(port_of(store_url)) as proxy:
        env = {"RATELIMITD_REDIS_URL": f"redis://{LOOPBACK}:{proxy.port}/0", "RATELIMITD_LOG_DENIALS": "5/s"}
        async with started("serve", *flags, env=env) as process:
            assert process.stdout is not None
            await lines_until("listening", process.stdout)
            proxy.drops_every = 20
            sending = asyncio.create_task(load.run())
            lines = await lines_until("decisions_failed", process.stdout)
            load.ends = True
            await sending
            process.terminate()
            lines += await lines_until("stopped", process.stdout)
    events = Counter(line["event"] for line in lines)
    denied = events["denied"]
    assert len([line for line in lines if line["level"] in {"warning", "error"}]) <= LINES_PER_MINUTE
    summary = next(line for line in lines if line["event"] == "decisions_failed")
    assert 0 < summary["failed"] <= load.codes[GrpcCode.UNAVAILABLE]
    suppressed = sum(line.get("suppressed", 0) for line in lines if line["event"] == "denied")
    assert denied + suppressed == load.codes[GrpcCode.RESOURCE_EXHAUSTED]
    assert denied < suppressed
