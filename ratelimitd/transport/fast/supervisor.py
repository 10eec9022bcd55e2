"""Runs the Envoy that hosts the service, and stops it in order: calls in flight finish first."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from io import FileIO
from pathlib import Path

from ratelimitd.address import Address, UnixAddress
from ratelimitd.certificates import Certificates, ServerTls, read_certificates
from ratelimitd.process.background import background
from ratelimitd.process.child import Child, child
from ratelimitd.process.descriptors import max_connections
from ratelimitd.process.signals import ENDING, blocked
from ratelimitd.transport.binding import free_binding
from ratelimitd.transport.certificate_expiry import EXPIRY_FILE
from ratelimitd.transport.fast import bootstrap
from ratelimitd.transport.fast.tls import HostCertificates, host_certificates
from ratelimitd.transport.listener import Listener
from ratelimitd.transport.metrics_sockets import bequeathed
from ratelimitd.transport.rotation import POLL_INTERVAL_S, follow

LIFELINE = "_RATELIMITD_LIFELINE"
"""The environment variable that names the file descriptor of the lifeline to the application."""

STOP_MARGIN_S = 10.0
"""How much longer than the drain a stop may take before the process is killed, in seconds.

The last counts, top users, the entry of the replica and traces take up to 6 s if their receivers hang.
"""

_NAME = "the host of the service"
_LEAVE = b"l"
_POLL_INTERVAL_S = 0.02

_MESSAGE = {
    "event": "envoy",
    "level": "%l",
    "component": "%n",
    "message": "%j",
    "timestamp": "%Y-%m-%dT%T.%f%z",
}
"""A message of Envoy as JSON, with the fields of the service's own log lines."""

_ARGUMENTS = ("--concurrency", "1", "--log-level", "error")
"""More than one worker thread of Envoy would wait for the one interpreter."""


@asynccontextmanager
async def serve_hosted(
    app: str,
    address: Address,
    *,
    environ: Mapping[str, str],
    drain_s: float,
    json_log: bool = False,
    max_connection_age_s: int = 0,
    metrics_sockets: Sequence[socket.socket] = (),
    tls: ServerTls | None = None,
    tls_poll_interval_s: float = POLL_INTERVAL_S,
) -> AsyncIterator[Listener]:
    """Serves `app` in an Envoy until the end of the block.

    Args:
        app: module:attribute of a HostedApplication, which reads its lifeline from the variable LIFELINE.
        address: where to listen; port 0 picks a free port of loopback.
        environ: the environment of the process. The variables that the host needs are added.
        drain_s: how long the application lets calls in flight finish, in seconds.
        json_log: whether Envoy's own messages are JSON.
        max_connection_age_s: seconds after which a caller is asked to connect again; 0 for never.
        metrics_sockets: the application inherits them. They are closed here.
        tls: certificates of the listener; None for no TLS.
        tls_poll_interval_s: seconds within which a change of these files is noticed.

    Raises ListenError, CertificateError, ChildError or MissingExtraError.
    """
    binding = await asyncio.to_thread(free_binding, address)
    filter_chain = bootstrap.filter_chain(app, max_connection_age_s=max_connection_age_s)
    async with AsyncExitStack() as stack:
        certificates = stack.enter_context(_certificates(tls, filter_chain))
        if certificates is not None:
            environ = {**environ, EXPIRY_FILE: str(certificates[1].expiry_file)}
        config = _config(filter_chain, binding.each)
        if json_log:
            config["application_log_config"] = {"log_format": {"json_format": _MESSAGE}}
        host, lifeline = await stack.enter_async_context(
            _host(config, environ, metrics_sockets, stop_timeout_s=drain_s + STOP_MARGIN_S)
        )

        async def accepts() -> bool:
            return await asyncio.to_thread(_accepts, binding.each[0])

        # Envoy loads the application before it listens, so the service is open once connections are accepted.
        await host.until(accepts, poll_interval_s=_POLL_INTERVAL_S)

        def leave() -> None:
            with suppress(BrokenPipeError):  # the host has ended, which `ended` reports
                lifeline.write(_LEAVE)

        async def ended() -> str:
            return f"{_NAME} ended by itself, with status {await host.process.wait()}"

        if tls is not None and certificates is not None:
            used, written = certificates
            await written.used(binding.each[0], used)
            use = partial(written.use, binding.each[0])
            rotation = follow(tls.files, used, use, poll_interval_s=tls_poll_interval_s)
            await stack.enter_async_context(background(rotation))
        yield Listener(binding.address, leave, ended)
    if isinstance(address, UnixAddress):
        _remove(address)


@contextmanager
def _certificates(
    tls: ServerTls | None, filter_chain: bootstrap.Config
) -> Iterator[tuple[Certificates, HostCertificates] | None]:
    """Turns TLS on in the filter chain. Yields the certificates, and what gives others to the host."""
    if tls is None:
        yield None
        return
    used = read_certificates(tls.files)
    with host_certificates(tls, used) as written:
        filter_chain["transport_socket"] = written.transport_socket(client_certificates=bool(used.ca))
        yield used, written


@asynccontextmanager
async def _host(
    config: bootstrap.Config,
    environ: Mapping[str, str],
    metrics_sockets: Sequence[socket.socket],
    *,
    stop_timeout_s: float,
) -> AsyncIterator[tuple[Child, FileIO]]:
    """An Envoy with this configuration, and the writing end of its lifeline, whose end stops it."""
    environ = {**environ, **bootstrap.environment()}
    command, config_file = bootstrap.command(config)
    reading_end, writing_end = os.pipe()
    async with AsyncExitStack() as stack:
        lifeline = stack.enter_context(FileIO(writing_end, "wb"))
        with ExitStack() as inherited:
            inherited.callback(os.close, config_file)
            inherited.callback(os.close, reading_end)
            for one in metrics_sockets:
                inherited.callback(one.close)
            process = child(
                _NAME,
                [*command, *_ARGUMENTS],
                None,
                {**environ, LIFELINE: str(reading_end), **bequeathed(metrics_sockets)},
                pass_fds=(reading_end, config_file, *(one.fileno() for one in metrics_sockets)),
                stop=lambda _: lifeline.close(),
                stop_timeout_s=stop_timeout_s,
            )
            # A service manager may signal every process of the service. The lifeline alone ends this one.
            with blocked(ENDING):
                host = await stack.enter_async_context(process)
        yield host, lifeline


def _config(filter_chain: bootstrap.Config, addresses: Sequence[Address]) -> bootstrap.Config:
    first, *others = map(_where, addresses)
    listener = {
        "name": "ratelimitd",
        "address": first,
        "additional_addresses": [{"address": other} for other in others],
        # Otherwise two processes could share a port by accident, and each would get half the calls.
        "enable_reuse_port": False,
        "filter_chains": [filter_chain],
    }
    return {
        "node": {"id": "ratelimitd", "cluster": "ratelimitd"},  # SDS needs it
        "static_resources": {"listeners": [listener]},
        # Without descriptors, Envoy would spin. Above this number it closes new connections at once.
        "overload_manager": {"resource_monitors": [_connection_limit()]},
        # Nothing could read the statistics, because this Envoy has no admin interface.
        "stats_config": {"stats_matcher": {"reject_all": True}},
    }


def _connection_limit() -> bootstrap.Config:
    kind = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"
    return {
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": f"type.googleapis.com/{kind}",
            "max_active_downstream_connections": max_connections(),
        },
    }


def _where(address: Address) -> bootstrap.Config:
    if isinstance(address, UnixAddress):
        return {"pipe": {"path": address.path, "mode": address.mode or 0}}
    where = {"address": address.host, "port_value": address.port, "ipv4_compat": address.host == "::"}
    return {"socket_address": where}


def _accepts(address: Address) -> bool:
    """Whether connections are accepted there."""
    try:
        if isinstance(address, UnixAddress):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.path)
        else:
            reachable = address.reachable
            socket.create_connection((reachable.host, reachable.port)).close()
    except OSError:
        return False
    return True


def _remove(address: UnixAddress) -> None:
    Path(address.path).unlink(missing_ok=True)
