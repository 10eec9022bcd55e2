"""Runs replicas, a backend and Envoy beside a store, and stops them in reverse order."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ratelimitd.address import TcpAddress
from ratelimitd.demo import parts
from ratelimitd.demo.envoy_config import envoy_config
from ratelimitd.demo.parts import Part
from ratelimitd.process.child import Child, child
from ratelimitd.process.loopback import LOOPBACK, free_port
from ratelimitd.settings import PREFIX, env_name
from ratelimitd.transport.binding import free_binding

ADDRESS_HEADER = "x-ratelimitd-client-address"
"""The header that envoy.yaml overwrites with the client's address."""


@dataclass(frozen=True)
class Stack:
    """A running system: its addresses, its processes, and the folder of their logs, one `NAME.log` each.

    `metrics` has the address of each replica's metrics. `admin` is Envoy's admin interface. `panel` is the
    admin service, None if it was not started.
    """

    replicas: tuple[TcpAddress, ...]
    metrics: tuple[TcpAddress, ...]
    front: TcpAddress
    admin: TcpAddress
    panel: TcpAddress | None
    children: tuple[Child, ...]
    logs: Path


@asynccontextmanager
async def running_stack(
    store_url: str,
    *,
    front_port: int = 0,
    replicas: int = 2,
    flags: Sequence[str] = (),
    admin_key: str = "",
) -> AsyncIterator[Stack]:
    """Runs the system until the end of the block.

    Args:
        store_url: the store that the replicas share.
        front_port: the port of loopback where Envoy listens; 0 picks a free one.
        replicas: the number of ratelimitd processes.
        flags: more options for `ratelimitd serve`.
        admin_key: the write key of the admin service, which is not started without one.

    Raises ListenError if `front_port` is taken, and ChildError if a part does not start.
    """
    front = TcpAddress(LOOPBACK, front_port or free_port())
    free_binding(front)
    backend, admin, *services = (TcpAddress(LOOPBACK, free_port()) for _ in range(2 + replicas))
    metrics = [TcpAddress(LOOPBACK, free_port()) for _ in services]
    panel = TcpAddress(LOOPBACK, free_port()) if admin_key else None
    behind = [parts.backend(backend)]
    for number, (address, scraped) in enumerate(zip(services, metrics, strict=True), start=1):
        behind.append(parts.replica(number, address, scraped, flags))
    if panel is not None:
        behind.append(parts.admin_service(panel, services[0], admin_key))
    environ = _environment(store_url)
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(prefix="ratelimitd-demo-")))
        children = await _start(stack, behind, logs, environ)
        # Envoy starts last: a replica that fails its first health check waits for the next one.
        config = logs / "envoy.yaml"
        clusters = {"ratelimitd": services, "backend": [backend]}
        config.write_text(envoy_config(listener=front, admin=admin, clusters=clusters))
        children += await _start(stack, [parts.envoy(config, admin)], logs, environ)
        yield Stack(tuple(services), tuple(metrics), front, admin, panel, tuple(children), logs)


def _environment(store_url: str) -> dict[str, str]:
    """Returns the environment of the parts, without the settings of the caller.

    The URL is not passed as an option, because it may contain a password and `ps` shows options.
    """
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return environ | {env_name("redis_url"): store_url, env_name("address_header"): ADDRESS_HEADER}


async def _start(
    stack: AsyncExitStack, some: Sequence[Part], logs: Path, environ: Mapping[str, str]
) -> list[Child]:
    """Starts some parts, which the stack stops, and waits until all of them are ready."""
    children = [
        await stack.enter_async_context(
            child(part.name, part.command, logs / f"{part.name}.log", {**environ, **part.environ})
        )
        for part in some
    ]
    await asyncio.gather(*(one.until(part.ready) for one, part in zip(children, some, strict=True)))
    return children


async def first_to_end(stack: Stack) -> str:
    """Returns the name of the first process that ends."""
    waits = {asyncio.create_task(one.process.wait()): one.name for one in stack.children}
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        return waits[done.pop()]
    finally:
        for task in waits:
            task.cancel()
