"""The application that an Envoy loads. Its settings come from the environment of that Envoy."""

import ratelimitd.store.redis_without_opentelemetry  # noqa: F401 - it has an effect

# isort: split
import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from ratelimitd.decider import open_decider
from ratelimitd.process.event_loop import use_daemon_threads
from ratelimitd.settings import load
from ratelimitd.telemetry.logs import configure_logs
from ratelimitd.telemetry.metrics_server import serve_metrics
from ratelimitd.transport.certificate_expiry import expiry_from
from ratelimitd.transport.fast.application import HostedApplication, HostedService
from ratelimitd.transport.fast.hop_server import serve_hop
from ratelimitd.transport.fast.supervisor import LIFELINE
from ratelimitd.transport.hop_check import VARIABLE, HopSettings
from ratelimitd.transport.metrics_sockets import inherited
from ratelimitd.transport.services import inside_methods, served_methods


@asynccontextmanager
async def _open_service() -> AsyncIterator[HostedService]:
    settings = load(os.environ, flags={"transport": "fast"})  # `ratelimitd envoy` ignores the setting
    configure_logs(settings.log_level, settings.log_format)
    use_daemon_threads(asyncio.get_running_loop())
    hop = os.environ.get(VARIABLE)
    lifeline = os.environ.get(LIFELINE)
    async with (
        open_decider(settings, expiry_from(os.environ)) as (decide, exposition, on_refused),
        serve_metrics(settings.metrics_address(), inherited(os.environ), exposition) as metrics,
    ):
        checks: AbstractAsyncContextManager[None] = nullcontext()
        if hop is None:
            methods = served_methods(decide, on_refused)
        else:
            hop_settings = HopSettings(*json.loads(hop))
            methods, answer = inside_methods(decide, on_refused, hop_settings)
            checks = serve_hop(hop_settings.socket, answer)
        async with checks:
            yield HostedService(
                methods,
                bound_s=settings.store_timeout_s,
                max_message_bytes=settings.max_message_bytes,
                drain_s=settings.drain_s,
                lifeline=None if lifeline is None else int(lifeline),
                on_leave=metrics.leave,
            )


application = HostedApplication(_open_service)
