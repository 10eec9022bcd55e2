"""The stores under load: an installed redis-server, or the bundled Valkey. Neither writes to disk."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from redis.asyncio import Redis

from bench.errors import BenchError
from bench.workloads import API, HOT_USER, user_id
from ratelimitd.core.keys import KeyLayout
from ratelimitd.core.match import API_CONTEXT, Matcher
from ratelimitd.core.model import Identity, Limit, Request, TakeRequest
from ratelimitd.errors import StoreError
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.policy.compile import policy_set
from ratelimitd.policy.flat_form import FlatPolicy
from ratelimitd.policy.normal_form import normal_text
from ratelimitd.policy.text import parse
from ratelimitd.process.child import child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.store.client import connector, open_client, store_errors
from ratelimitd.store.embedded import embedded_store
from ratelimitd.store.link import Link

REDIS, VALKEY = "redis", "valkey"

GLOBAL = Limit(1_000_000_000, 1000.0)
"""The limit of the global bucket in all workloads."""

POLICY = FlatPolicy.model_validate(
    {
        "global_capacity": GLOBAL.capacity,
        "global_rate": GLOBAL.refill_rate,
        "user_capacity": 100_000,
        "user_rate": 0.001,
        "user_api_capacity": 100_000,
        "user_api_rate": 0.001,
    }
)
"""The policy of all workloads: no run empties a full bucket; an emptied one refills too slowly to pay."""

LEASED_POLICY = normal_text(POLICY).replace("refill_rate: 1000}", "refill_rate: 1000, lease: auto}")
"""The same policy with leases of the global bucket."""

CONFIG_KEY, LEASED_CONFIG_KEY = "rate_limit:config", "rate_limit:leased"
"""The keys of the two policies."""

STORE_TIMEOUT_S = 2.0
"""Timeout of a store decision, long enough for a busy machine."""

POLICY_SET = policy_set(POLICY, "bench")
LEASED_POLICY_SET = policy_set(parse(LEASED_POLICY), "leased")
_REQUEST = Request("GET", "/api/ping", "", {}, "", {API_CONTEXT: API})


def take_request(user: int) -> TakeRequest:
    """The store request for a call of the user with this number."""
    identity = Identity("header", user_id(user))
    return Matcher(POLICY_SET, KeyLayout("rate")).match(_REQUEST, identity).take_request(identity)


@asynccontextmanager
async def open_limiter(url: str) -> AsyncIterator[Batcher]:
    """Opens the service's limiter on this store, with the timeout of the bench."""
    async with (
        Link(connector(url), silence_s=STORE_TIMEOUT_S) as link,
        Batcher(RedisLimiter(link), timeout_s=STORE_TIMEOUT_S) as limiter,
    ):
        yield limiter


@dataclass(frozen=True)
class Store:
    """A running store. `name` holds product and version."""

    url: str
    name: str
    pid: int
    client: Redis

    async def reset(self) -> None:
        """Stores the policies, empties the hot user's bucket for the API and fills all others."""
        now_s, now_us = await self.client.time()
        hot = f"rate:user:{user_id(HOT_USER)}:api:{API}"
        steps = self.client.pipeline(transaction=True)  # no service sees the store without a policy
        steps.flushdb()
        steps.set(CONFIG_KEY, POLICY.model_dump_json())
        steps.set(LEASED_CONFIG_KEY, LEASED_POLICY)
        steps.hset(hot, mapping={"tokens": 0, "last": now_s * 1_000_000 + now_us})
        await steps.execute()

    async def used_bytes(self) -> int:
        """Memory that the store uses, as INFO reports it."""
        return int((await self.client.info("memory"))["used_memory"])


def installed() -> list[str]:
    """Kinds of store available on this machine, the default first."""
    return [REDIS, VALKEY] if shutil.which("redis-server") else [VALKEY]


@asynccontextmanager
async def running_store(kind: str) -> AsyncIterator[Store]:
    """Starts a store that holds only the policy and the hot user's bucket."""
    async with _redis() if kind == REDIS else embedded_store() as url, open_client(url) as client:
        with store_errors():
            server = await client.info("server")
        product, version = (
            server.get("server_name", REDIS),
            server.get("valkey_version", server["redis_version"]),
        )
        store = Store(url, f"{product} {version}", int(server["process_id"]), client)
        await store.reset()
        yield store


@asynccontextmanager
async def _redis() -> AsyncIterator[str]:
    program = shutil.which("redis-server")
    if program is None:
        raise BenchError("redis-server is missing: apt-get install redis-server, or use --store valkey")
    port = free_port()
    with TemporaryDirectory(prefix="ratelimitd-bench-") as folder:
        options = [
            "--bind",
            LOOPBACK,
            "--port",
            str(port),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            folder,
        ]
        async with child("redis-server", [program, *options], Path(folder) / "log", os.environ) as server:
            url = f"redis://{LOOPBACK}:{port}/0"
            async with open_client(url) as client:

                async def answers() -> bool:
                    try:
                        with store_errors():
                            return bool(await client.ping())
                    except StoreError:
                        return False

                await server.until(answers)
            yield url
