"""Memory per user in the store, and memory of the service before and after many users and APIs."""

import asyncio
from pathlib import Path

import grpc

from bench import grpc_methods
from bench.errors import BenchError
from bench.goals import Goal
from bench.measure import measure
from bench.process_usage import memory
from bench.stores import REDIS, Store, open_limiter, running_store, take_request
from bench.table import Table
from bench.targets import Target
from bench.workloads import API, ID_DIGITS, SIXTY_FOUR, STREAMS, Case, Entry, Workload, user_id
from ratelimitd.address import TcpAddress

_BATCH = 64
_MAX_BYTES_PER_USER = {REDIS: 400, "valkey": 300}
_MAX_MORE_MB = 40.0
"""What a service may grow by, in megabytes: its tables of users, APIs and rules are bounded."""

_MB = 1 << 20
_AT_ONCE = 256
"""Calls at once, fewer than a service allows on a connection."""


async def stored_bytes(kind: str, users: int) -> tuple[str, float, int]:
    """Returns the store's name, its bytes per active user, and MEMORY USAGE of the two keys of one user.

    Each user is charged twice, so that the buckets hold fractions of a token, as buckets in use do.
    """
    async with running_store(kind) as store:
        before = await store.used_bytes()
        for _ in range(2):
            await _charge(store, users)
        after = await store.used_bytes()
        key = f"rate:user:{user_id(0)}"
        keys = [int(await store.client.memory_usage(one) or 0) for one in (key, f"{key}:api:{API}")]
        return store.name, (after - before) / users, sum(keys)


async def _charge(store: Store, users: int) -> None:
    async with open_limiter(store.url) as limiter:
        for first in range(0, users, _BATCH):
            numbers = range(first, min(first + _BATCH, users))
            outcomes = await asyncio.gather(*(limiter.take(take_request(number)) for number in numbers))
            if not all(outcome.allowed for outcome in outcomes):
                raise BenchError("a user was denied while the store was being filled")


async def store_table(kinds: list[str], users: int) -> tuple[Table, list[Goal]]:
    """Bytes per user in each kind of store, and the goals for them."""
    rows, goals = [], []
    for kind in kinds:
        name, each, keys = await stored_bytes(kind, users)
        rows.append([name, f"{users}", f"{each:.0f}", f"{keys}"])
        goals.append(Goal(f"{name}, bytes per active user", _MAX_BYTES_PER_USER[kind], [each], digits=0))
    columns = [
        "store",
        "active users",
        "bytes per user (used_memory)",
        "bytes of the two keys (MEMORY USAGE)",
    ]
    return Table("Memory of the store", columns, rows), goals


async def service_table(
    targets: list[Target], users: int, apis: int, folder: Path
) -> tuple[Table, list[Goal]]:
    """Megabytes of each service's processes, before and after this load, and the goals for their growth.

    The service inside an Envoy gets no requests to many APIs, because its Envoy names the API.
    """
    rows, goals = [], []
    for target in targets:
        pid, entry = target.service_pid, Entry.DIRECT
        if pid is None:
            assert target.front is not None  # noqa: S101 - a target without a process runs inside an Envoy
            pid, entry = target.front.pid, Entry.ENVOY
        before = memory(pid)
        concurrency = STREAMS if entry is Entry.DIRECT else SIXTY_FOUR
        await measure(target, Case(entry, Workload.MANY, concurrency, target.name), users, folder, users)
        if target.address is not None:
            await _call_apis(target.address, apis)
        after = memory(pid)
        used = (f"{value / _MB:.0f}" for value in (before.rss, after.rss, before.pss, after.pss))
        rows.append([target.name, f"{users}", f"{apis if target.address else 1}", *used])
        what = f"{target.name}, MB more (RSS) after {users} users"
        goals.append(Goal(what, _MAX_MORE_MB, [(after.rss - before.rss) / _MB], digits=0))
    columns = [
        "target",
        "users",
        "APIs",
        "RSS before, MB",
        "RSS after, MB",
        "PSS before, MB",
        "PSS after, MB",
    ]
    title = "Memory of the service: already under load, before and after more users and APIs"
    return Table(title, columns, rows), goals


async def _call_apis(address: TcpAddress, apis: int) -> None:
    """Sends a request to each of so many APIs."""
    method = grpc_methods.check()
    message = f"{0:0{ID_DIGITS}}".encode().join(method.pieces)[grpc_methods.PREFIX_BYTES :]
    async with grpc.aio.insecure_channel(str(address), options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary(method.path, None, None)
        names = [f"/{number:0{len(API) - 1}}".encode() for number in range(apis)]  # as long as API
        for start in range(0, apis, _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            await asyncio.gather(*(call(message.replace(API.encode(), name), timeout=60) for name in some))
