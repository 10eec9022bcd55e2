"""The one place that wires everything. The stack closes in reverse, so the store outlives its users."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from ratelimitd import __version__
from ratelimitd.core.check import Check
from ratelimitd.limiter.batcher import Batcher
from ratelimitd.limiter.deadline import Deadline
from ratelimitd.limiter.outage_log import OutageLog
from ratelimitd.limiter.redis_limiter import RedisLimiter
from ratelimitd.policy.redis_policies import RedisPolicies
from ratelimitd.settings import EMBEDDED, Settings
from ratelimitd.store.client import open_client
from ratelimitd.store.embedded import embedded_store
from ratelimitd.telemetry.logs import configure_logs
from ratelimitd.transport.grpcio import serve_grpcio
from ratelimitd.transport.listen import Listener, parse_listen

CALL_TIMEOUT_S = 1.0
"""A call may outlast the decisions in it: it may have to connect first, which a decision's deadline would cut
off again and again where the store is some round trips away."""


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Listener]:
    """The service, answering until the end of the block.

    Raises ListenError, MissingExtraError or ChildError. A store that is away is none of these: it may come.
    """
    async with AsyncExitStack() as stack:
        url = settings.redis_url
        if url == EMBEDDED:
            url = await stack.enter_async_context(embedded_store())
            structlog.get_logger("ratelimitd").info("embedded_store", url=url)
        client = await stack.enter_async_context(open_client(url))
        policies = await stack.enter_async_context(RedisPolicies(client, settings.config_key).watched())
        timeout_s = settings.store_timeout_ms / 1000
        calls = Deadline(RedisLimiter(client), max(CALL_TIMEOUT_S, timeout_s))
        batcher = await stack.enter_async_context(Batcher(calls))
        check = Check(
            policies=policies,
            limiter=OutageLog(Deadline(batcher, timeout_s)),
            sources=settings.sources(),
            key_prefix=settings.key_prefix,
            on_store_error=settings.on_store_error,
        )
        yield await stack.enter_async_context(
            serve_grpcio(
                check,
                parse_listen(settings.listen),
                max_message_bytes=settings.max_message_bytes,
                drain_s=settings.drain_s,
            )
        )


async def serve(settings: Settings) -> None:
    """Runs until SIGTERM, which leaves callers the time to go elsewhere, or Ctrl-C or a hang-up."""
    configure_logs(settings.log_level)
    log = structlog.get_logger("ratelimitd")
    terminate, interrupt = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, terminate.set)
    for signum in (signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signum, interrupt.set)
    async with running(settings) as listener:
        log.info("listening", address=str(listener.address), version=__version__)
        await _first(terminate, interrupt)
        if not interrupt.is_set():
            log.info("leaving", for_s=settings.leave_s)
            await listener.leave()
            await _first(interrupt, timeout_s=settings.leave_s)
        log.info("draining", at_most_s=settings.drain_s)
    log.info("stopped")


async def _first(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Returns when one of the events is set, or when the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
