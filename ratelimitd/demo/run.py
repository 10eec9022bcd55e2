"""The demo from start to Ctrl-C. Nothing is left running, and nothing on disk.

In a store of yours it charges the buckets of user1, user2 and everybody, and leaves them to expire. Its
limits become a revision there, if you have none.
"""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis
from rich.console import Console

from ratelimitd.demo.show import EXAMPLE_LIMITS, how_to_go_on, show
from ratelimitd.demo.stack import first_to_end, running_stack
from ratelimitd.errors import ChildError
from ratelimitd.settings import CONFIG_KEY
from ratelimitd.store.client import open_client, store_errors
from ratelimitd.store.embedded import embedded_store
from ratelimitd.telemetry.logs import configure_logs


async def run_demo(*, port: int, redis_url: str | None, once: bool) -> None:
    """Starts everything, shows it, and stays up until a signal, or ends at once with `once`."""
    configure_logs("warning")
    console = Console(width=110, soft_wrap=True)
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if me is not None:
            me.cancel()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop)
    try:
        await _demo(console, port=port, redis_url=redis_url, once=once)
    except asyncio.CancelledError:
        if not stopped:
            raise
        console.print("\nStopped; nothing is left running.")


async def _demo(console: Console, *, port: int, redis_url: str | None, once: bool) -> None:
    console.print("Starting a store, two ratelimitd, an admin service, a backend and Envoy ...")
    async with AsyncExitStack() as stack:
        url = redis_url or str(await stack.enter_async_context(embedded_store()))
        store = await stack.enter_async_context(open_client(url))
        await stack.enter_async_context(_example_limits(store))
        key = secrets.token_hex(16)
        system = await stack.enter_async_context(running_stack(url, front_port=port, admin_key=key))
        with store_errors():
            await show(system, store, console)
        if not once:
            console.print(how_to_go_on(system, url, key), markup=False, highlight=False)
            console.print("\nCtrl-C stops everything.")
            raise ChildError(f"{await first_to_end(system)} ended by itself")


@asynccontextmanager
async def _example_limits(store: Redis) -> AsyncIterator[None]:
    """Sets the example's limits where none are set, and takes them back unless you changed them meanwhile."""
    with store_errors():
        ours = await store.set(CONFIG_KEY, EXAMPLE_LIMITS, nx=True)
    try:
        yield
    finally:
        if ours:
            await _take_back(store)


async def _take_back(store: Redis) -> None:
    with store_errors():
        if await store.get(CONFIG_KEY) in {EXAMPLE_LIMITS, EXAMPLE_LIMITS.encode()}:
            await store.delete(CONFIG_KEY)
