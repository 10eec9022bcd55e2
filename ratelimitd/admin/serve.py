"""Runs the admin service until a signal arrives. Rate limiting does not depend on it."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from socket import socket

import structlog
import uvicorn

from ratelimitd import __version__
from ratelimitd.address import TcpAddress, parse_address
from ratelimitd.admin.admin_keys import load_admin_keys
from ratelimitd.admin.app import admin_app
from ratelimitd.certificates import read_certificates
from ratelimitd.control.control import Control
from ratelimitd.errors import SettingsError
from ratelimitd.process import descriptors
from ratelimitd.process.signals import ENDING, on_signal
from ratelimitd.settings import EMBEDDED, Settings, env_name
from ratelimitd.store.access import access_by
from ratelimitd.store.access_watch import watching_access
from ratelimitd.store.client import open_client, refuse_unsupported
from ratelimitd.store.fresh_pool import pool_of
from ratelimitd.store.master_watch import watching_master
from ratelimitd.telemetry.logs import configure_logs
from ratelimitd.tls_settings import check_tls
from ratelimitd.transport.binding import open_sockets
from ratelimitd.transport.client import check_service

DRAIN_S = 5
"""How long requests in flight may take to finish after SIGTERM, in seconds."""

_log = structlog.get_logger("ratelimitd.admin")


class _Server(uvicorn.Server):
    """Logs its address once it accepts connections, and returns from `serve` at a signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Starts the shutdown at SIGTERM, SIGHUP or Ctrl-C.

        uvicorn's own version raises the signal again at the end, before the store client is closed.
        """
        for number in ENDING:
            on_signal(number, partial(self.handle_exit, number, None))
        yield

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        address = TcpAddress(self.config.host, self.config.port)
        _log.info("admin_listening", address=str(address), version=__version__)


async def serve_admin(settings: Settings) -> None:
    """Serves until SIGTERM, SIGHUP or Ctrl-C. Raises SettingsError and ListenError."""
    configure_logs(settings.log_level, settings.log_format)
    address = parse_address(settings.admin_listen)
    if not isinstance(address, TcpAddress):
        raise SettingsError(f"{env_name('admin_listen')} is {settings.admin_listen!r}: must be HOST:PORT")
    if settings.redis_url == EMBEDDED:
        raise SettingsError(
            f"{env_name('redis_url')}: `embedded` is the private store of one service; "
            "the admin service needs a store that both can reach"
        )
    keys = load_admin_keys(settings)
    tls = check_tls(settings)
    if tls is not None:
        await asyncio.to_thread(read_certificates, tls.files)  # an error now, not at the first test request
    descriptors.raise_limit()
    descriptors.silence_accept_errors()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(descriptors.watched())
        servers = await asyncio.to_thread(open_sockets, address)
        for server in servers:
            stack.enter_context(server)
        access = access_by(settings)
        await refuse_unsupported(access)
        client = await stack.enter_async_context(open_client(access, settings.config_key))
        await stack.enter_async_context(watching_access(access, pool_of(client).renew))
        await stack.enter_async_context(watching_master(client))
        app = admin_app(Control(client, settings), keys, settings, partial(check_service, tls=tls))
        config = uvicorn.Config(
            app,
            host=address.host,
            port=servers[0].getsockname()[1],  # for the log; the sockets are bound already
            backlog=128,  # asyncio tries so many accepts in a row, also without free descriptors
            log_config=None,
            log_level="error",  # its warnings are about requests, so any client could fill the log with them
            ws="none",  # otherwise uvicorn accepts WebSockets whenever a library for them is installed
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # a client could forge the headers, so its address is that of the connection
            timeout_graceful_shutdown=DRAIN_S,
            lifespan="off",
        )
        if not keys:
            _log.warning("admin_without_key", answers="/healthz, /readyz and /metrics only")
        await _Server(config).serve(servers)
    _log.info("admin_stopped")
