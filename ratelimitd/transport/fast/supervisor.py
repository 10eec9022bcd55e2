"""Runs the Envoy that hosts the service, and ends it in order: calls in flight finish first."""

import asyncio
import os
import socket
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

from ratelimitd.address import Address, TcpAddress, UnixAddress
from ratelimitd.errors import ChildError
from ratelimitd.process.loopback import free_port
from ratelimitd.transport.fast import bootstrap
from ratelimitd.transport.listener import Listener, ensure_free

LIFELINE = "_RATELIMITD_LIFELINE"
"""The environment variable that tells the module which file descriptor its lifeline is."""

START_TIMEOUT_S = 30.0
STOP_MARGIN_S = 5.0
"""How much longer than the drain a stop may take, before the process is killed."""

_POLL_INTERVAL_S = 0.02

_ARGUMENTS = ("--concurrency", "1", "--log-level", "error")
"""One thread is enough for one Python."""


@asynccontextmanager
async def serve_hosted(
    app: str, address: Address, *, environ: Mapping[str, str], drain_s: float
) -> AsyncIterator[Listener]:
    """Serves `app` (module:attribute, a Module) until the end of the block.

    Args:
        app: what Envoy's Python loads; it reads its lifeline from the variable LIFELINE.
        address: where to listen; port 0 picks a free one of loopback.
        environ: the process's environment, to which is added what the host needs.
        drain_s: how long the module lets calls in flight finish.

    Raises ListenError, ChildError or MissingExtraError.
    """
    ensure_free(address)
    if isinstance(address, TcpAddress) and not address.port:
        address = TcpAddress(address.host, free_port())
    async with _process(_config(app, address), environ, stop_s=drain_s + STOP_MARGIN_S) as (process, held):
        await _until_listening(process, address)

        async def leave() -> None:
            with suppress(BrokenPipeError):  # it ended meanwhile: `ended` says so
                os.write(held, b"l")

        async def ended() -> str:
            return f"the host of the service ended by itself, with status {await process.wait()}"

        yield Listener(address, leave, ended)
    if isinstance(address, UnixAddress):
        _remove(address)


@asynccontextmanager
async def _process(
    config: bootstrap.Config, environ: Mapping[str, str], *, stop_s: float
) -> AsyncIterator[tuple[Process, int]]:
    """An Envoy with this configuration, and the end of its lifeline that is held here."""
    environ = {**environ, **bootstrap.environment()}
    command, config_file = bootstrap.command(config)
    async with AsyncExitStack() as stack:
        lifeline, held = os.pipe()
        with ExitStack() as inherited:
            inherited.callback(os.close, config_file)
            inherited.callback(os.close, lifeline)
            process = await asyncio.create_subprocess_exec(
                *command,
                *_ARGUMENTS,
                stdin=DEVNULL,
                env={**environ, LIFELINE: str(lifeline)},
                pass_fds=(lifeline, config_file),
                start_new_session=True,  # Ctrl-C is for this process, which then ends that one in order
            )
        stack.push_async_callback(_stopped, process, stop_s)
        stack.callback(os.close, held)
        yield process, held


def _config(app: str, address: Address) -> bootstrap.Config:
    if isinstance(address, UnixAddress):
        where: bootstrap.Config = {"pipe": {"path": address.path}}
    else:
        where = {"socket_address": {"address": address.host, "port_value": address.port}}
    listener = {
        "name": "ratelimitd",
        "address": where,
        # Else two processes share a port by accident, each with half the calls.
        "enable_reuse_port": False,
        "filter_chains": [bootstrap.filter_chain(app)],
    }
    return {
        "static_resources": {"listeners": [listener]},
        "stats_config": {"stats_matcher": {"reject_all": True}},  # nobody could read them: it has no admin
    }


async def _until_listening(process: Process, address: Address) -> None:
    """Returns once connections are taken. The module is open by then: Envoy loads it before it listens."""
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await asyncio.to_thread(_connects, address):
                if process.returncode is not None:
                    raise ChildError(f"the host of the service ended with status {process.returncode}")
                await asyncio.sleep(_POLL_INTERVAL_S)
    except TimeoutError as error:
        raise ChildError(f"the host of the service did not listen within {START_TIMEOUT_S:g} s") from error


def _connects(address: Address) -> bool:
    try:
        if isinstance(address, UnixAddress):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(address.path)
        else:
            socket.create_connection((address.reachable_host, address.port)).close()
    except OSError:
        return False
    return True


def _remove(address: UnixAddress) -> None:
    Path(address.path).unlink(missing_ok=True)


async def _stopped(process: Process, within_s: float) -> None:
    """The end of the lifeline ends the process, unless it hangs."""
    try:
        async with asyncio.timeout(within_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
