"""A system under load, from before a fault until it has recovered."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from drills.drill import Site
from drills.load import LoadSpec
from drills.system import System, running_system
from drills.traffic import Traffic, traffic

BEFORE_S, AFTER_S = 2.0, 2.0
"""How long a steady load runs before the fault and after the recovery: tight users empty their buckets."""


@asynccontextmanager
async def loaded(
    site: Site,
    store_url: str,
    *,
    rate: float | None = None,
    warm: int = 1,
    settings: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> AsyncIterator[tuple[System, Traffic]]:
    """Yields a system once it serves its load. After the block, waits until it serves it again.

    Args:
        site: where the drill runs.
        store_url: the store of the replicas.
        rate: requests per second; by default that of the site.
        warm: connections to open before the first request.
        settings: more settings of the replicas, by name.
        wrapper: a command that starts each replica.
    """
    running = running_system(
        store_url, site.folder, transport=site.transport, settings=settings, wrapper=wrapper
    )
    async with (
        running as system,
        traffic(LoadSpec(system.front.host, system.front.port, rate or site.rate, warm)) as sent,
    ):
        await sent.steady()
        await asyncio.sleep(BEFORE_S)
        yield system, sent
        await sent.recovered()
        await asyncio.sleep(AFTER_S)
