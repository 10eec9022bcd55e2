"""Spellings of a path through Envoy, with and without path normalization: what each of them costs."""

import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest
import pytest_asyncio

from ratelimitd.address import TcpAddress
from ratelimitd.demo.stack import Stack, running_stack
from ratelimitd.store.client import open_client
from tests.example_limits import KEY
from tests.system.changed_front import Config, changed_front, connection_manager, running_backend
from tests.transport.http2 import exchange

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("front")]

LIMIT = {"capacity": 1000, "refill_rate": 0.000001}
POLICY = {
    "tiers": {"global": LIMIT, "user": LIMIT, "user_api": LIMIT},
    "routes": [
        {"path": "/api/search", "cost": 5},
        {"path": "/api/café", "cost": 6},
        {"path": "/api/na%C3%AFve", "cost": 7},
        {"path": "/api/%6fffers", "cost": 8},
        {"path": "/api/{id}", "cost": 9},
        {"path": "/api/status", "exempt": True},
    ],
}
COSTS = [
    ("/api/search", 5),
    ("/api/search;v=1", 5),
    ("/api/search;", 5),
    ("/api/search%3Bv=1", 5),
    ("/api/search%3bv=1", 5),
    ("/api/search;v=1/", 5),
    ("/api/search;v=1?q=;", 5),
    ("/api/;x/search", 5),
    ("/api/x/%2e%2e;/search", 5),
    ("/api/x/%2e%2e%3Bv/search", 5),
    ("/api/;/;x/%3B/search//;v=1", 5),
    ("/api/%73earch;v=1", 5),
    ("/api/search?;v=1", 5),
    ("/api/search;v=1/x", 1),
    ("/api/x?/api/search", 1),
    ("/api/café", 6),
    ("/api/caf%C3%A9", 6),
    ("/api/caf%c3%a9;v=1", 6),
    ("/api/caf%E9", 1),
    ("/api/naïve", 7),
    ("/api/na%c3%afve", 7),
    ("/api/na%C3%AFve", 7),
    ("/api/offers", 8),
    ("/api/%6Fffers", 8),
    ("/api/{id}", 9),
    ("/api/%7Bid%7d", 9),
    ("/api/status", 0),
    ("/api/%73tatus", 0),
    ("/api/status;v=1", 1),
    ("/api/%zz", 1),
]
"""Targets of requests, and the tokens that each takes."""

NOT_NORMALIZED = [
    ("/api/café", 6),
    ("/api/%73earch", 5),
    ("/api/{id}", 9),
    ("/api/search;v=1", 5),
    ("/api/x/..;/search", 5),
    ("/api/x/%2e%2e;/search", 5),
    ("/api/%73tatus", 0),
]
"""The same behind an Envoy that does not normalize paths."""


def not_normalizing(config: Config) -> None:
    """Switches the normalization of paths off."""
    manager = connection_manager(config)
    for name in ("normalize_path", "merge_slashes", "path_with_escaped_slashes_action"):
        del manager[name]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["grpcio", "fast"])
async def stack(request: pytest.FixtureRequest, store_url: str) -> AsyncIterator[Stack]:
    """Runs a replica with the policy above, behind Envoy."""
    async with open_client(store_url) as store:
        await store.flushdb()
        await store.set(KEY, json.dumps(POLICY))
        async with running_stack(store_url, replicas=1, flags=("--transport", request.param)) as running:
            yield running
        await store.flushdb()


async def costs(front: TcpAddress, store_url: str, targets: Iterable[str]) -> list[tuple[str, int]]:
    """Sends a request to each target, over HTTP/2 as raw UTF-8, and returns what each took."""
    found = []
    async with open_client(store_url) as store:
        for target in targets:
            await store.delete("rate:global")
            reply = await exchange(front, [], path=target, method="GET", x_user_id="user1")
            assert reply.headers[":status"] == "200", target
            left = await store.hget("rate:global", "tokens")
            found.append((target, 0 if left is None else 1000 - int(float(left))))
    return found


async def test_every_spelling_of_a_path_costs_what_its_route_costs(stack: Stack, store_url: str) -> None:
    assert await costs(stack.front, store_url, dict(COSTS)) == COSTS


async def test_a_front_that_does_not_normalize_makes_no_difference(
    stack: Stack, store_url: str, tmp_path: Path
) -> None:
    async with (
        running_backend() as backend,
        changed_front(tmp_path, not_normalizing, replicas=stack.replicas, backend=backend.address) as client,
    ):
        front = TcpAddress(client.base_url.host, client.base_url.port or 80)
        assert await costs(front, store_url, dict(NOT_NORMALIZED)) == NOT_NORMALIZED
