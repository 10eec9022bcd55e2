"""A light mix of requests for the demo: ordinary users, two greedy ones, a monitor and a blocked user.

The users are named demo-*, so that no request is charged to a user of the store that the demo borrows.
"""

import asyncio
import json
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import httpx

from ratelimitd.address import TcpAddress

MEAN_RATE = 20.0
"""Requests per second, on average. The rate rises and falls by half of it, so that charts have a shape."""

PERIOD_S = 180.0
"""Seconds between two peaks of the rate."""

MAX_IN_FLIGHT = 40
"""Requests that wait for a response, at most. Further ones are left out, for example while Envoy is busy."""

TIMEOUT_S = 5.0

TRAFFIC_LIMITS = json.dumps(
    {
        "tiers": {
            "global": {"capacity": 60, "refill_rate": 10},
            "user": {"capacity": 10, "refill_rate": 2},
            "user_api": {"capacity": 3, "refill_rate": 1},
        },
        "routes": [
            {"path": "/api/orders"},
            {"path": "/api/users/*"},
            {"path": "/api/search", "cost": 2},
            {"path": "/api/status", "exempt": True},
        ],
        "overrides": {"users": {"demo-mallory": {"blocked": True}}},
    }
)
"""A policy under which each kind of user has another outcome."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A group of users with the same kind of requests.

    Args:
        share: their part of all requests.
        users: their names.
        paths: the paths that they ask for, each equally often.
    """

    share: float
    users: tuple[str, ...]
    paths: tuple[str, ...]


ORDINARY = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
KINDS = (
    Kind(
        0.40,
        tuple(f"demo-{name}" for name in ORDINARY),
        ("/api/orders", "/api/orders", "/api/users/7", "/api/search"),
    ),
    Kind(0.25, ("demo-bot",), ("/api/orders",)),
    Kind(0.20, ("demo-crawler",), ("/api/orders", "/api/users/7", "/api/search", "/api/items")),
    Kind(0.10, ("demo-monitor",), ("/api/status",)),
    Kind(0.05, ("demo-mallory",), ("/api/orders",)),
)


def rate_at(now_s: float) -> float:
    """Returns the requests per second at a time in seconds."""
    return MEAN_RATE * (1 + math.sin(2 * math.pi * now_s / PERIOD_S) / 2)


async def send_traffic(front: TcpAddress, rate: Callable[[float], float] = rate_at) -> None:
    """Sends requests through the Envoy at `front` until it is cancelled.

    Responses are ignored, and so are requests that fail: a part of the system may be starting again.

    Args:
        front: the Envoy.
        rate: the requests per second at a time in seconds since the start.
    """
    choose = random.Random()  # noqa: S311 - nothing secret
    shares = [kind.share for kind in KINDS]
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    requests = set[asyncio.Task[None]]()
    async with (
        httpx.AsyncClient(base_url=f"http://{front}", trust_env=False, timeout=TIMEOUT_S) as client,
        asyncio.TaskGroup() as group,
    ):
        while True:
            if len(requests) < MAX_IN_FLIGHT:
                (kind,) = choose.choices(KINDS, shares)
                request = _send(client, choose.choice(kind.users), choose.choice(kind.paths))
                task = group.create_task(request)
                requests.add(task)
                task.add_done_callback(requests.discard)
            await asyncio.sleep(1 / rate(loop.time() - began_s))


async def _send(client: httpx.AsyncClient, user: str, path: str) -> None:
    with suppress(httpx.HTTPError):
        await client.get(path, headers={"x-user-id": user})
