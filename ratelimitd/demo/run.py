"""Runs the demo from start to Ctrl-C. It leaves no process and no file behind.

In a store of the user it charges the buckets of user1, user2 and the global one, which then expire. With
traffic it also charges the buckets of users named demo-*. Without a policy in that store, the limits of the
demo become a revision there and are deleted at the end.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from redis.asyncio import Redis
from rich.console import Console

from ratelimitd.demo.show import EXAMPLE_LIMITS, dashboard, next_steps, show
from ratelimitd.demo.stack import first_to_end, running_stack
from ratelimitd.demo.traffic import MEAN_RATE, TRAFFIC_LIMITS, send_traffic
from ratelimitd.errors import ChildError
from ratelimitd.process.signals import ENDING, on_signal
from ratelimitd.settings import CONFIG_KEY
from ratelimitd.store.client import open_client, store_errors
from ratelimitd.store.embedded import embedded_store
from ratelimitd.telemetry.logs import configure_logs

TRAFFIC = f"Traffic: about {MEAN_RATE:.0f} requests a second of users named demo-*, some of which are denied."
NO_TRAFFIC = "No traffic: start the demo with --traffic to see charts move."

TABLE_COLUMNS = 110
"""Enough for the widest table, whatever the width of the terminal: rich would cut columns to fit it."""


async def run_demo(*, port: int, redis_url: str | None, once: bool, traffic: bool) -> None:
    """Starts everything and shows it, then ends with `once`, or else waits for a signal."""
    configure_logs("warning")
    console = Console(width=TABLE_COLUMNS, soft_wrap=True)
    demo = asyncio.current_task()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True
        if demo is not None:
            demo.cancel()

    for number in ENDING:
        on_signal(number, stop)
    try:
        await _demo(console, port=port, redis_url=redis_url, once=once, traffic=traffic)
    except asyncio.CancelledError:
        if not stopped:
            raise
        console.print("\nStopped. No process is left running.")


async def _demo(console: Console, *, port: int, redis_url: str | None, once: bool, traffic: bool) -> None:
    console.print("Starting a store, two ratelimitd, an admin service, a backend and Envoy ...")
    async with AsyncExitStack() as stack:
        url = redis_url or str(await stack.enter_async_context(embedded_store()))
        store = await stack.enter_async_context(open_client(url))
        limits = TRAFFIC_LIMITS if traffic else EXAMPLE_LIMITS
        await stack.enter_async_context(_limits(store, limits, delete=redis_url is not None))
        key = secrets.token_hex(16)
        system = await stack.enter_async_context(running_stack(url, front_port=port, admin_key=key))
        if not once:
            console.print(dashboard(system, key), markup=False, highlight=False)
        with store_errors():
            await show(system, store, console)
        if not once:
            console.print(next_steps(system, url, key), markup=False, highlight=False)
            console.print(f"\n{TRAFFIC if traffic else NO_TRAFFIC}\nCtrl-C stops everything.")
            if traffic:
                stack.push_async_callback(_cancel, asyncio.create_task(send_traffic(system.front)))
            raise ChildError(f"{await first_to_end(system)} ended by itself")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


@asynccontextmanager
async def _limits(store: Redis, limits: str, *, delete: bool) -> AsyncIterator[None]:
    """Sets these limits if the store has no policy. `delete` deletes them unless they were changed.

    The bundled store needs no deletion, and a signal to the process group may have ended it already.
    """
    with store_errors():
        was_set = await store.set(CONFIG_KEY, limits, nx=True)
    try:
        yield
    finally:
        if was_set and delete:
            await _delete(store, limits)


async def _delete(store: Redis, limits: str) -> None:
    with store_errors():
        if await store.get(CONFIG_KEY) in {limits, limits.encode()}:
            await store.delete(CONFIG_KEY)
