"""The Envoy that hosts this Python: its command, its environment and the filters of the application."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import Any, NoReturn

from ratelimitd.errors import ChildError, MissingExtraError
from ratelimitd.process.envoy_binary import envoy_binary
from ratelimitd.process.signals import ENDING, is_ignored
from ratelimitd.transport.fast.path_filter import path_filter, refusal
from ratelimitd.transport.metrics_sockets import bequeathed

try:
    from pyvoy import PyvoyServer
    from pyvoy._server import get_envoy_environ
except ImportError as missing:
    raise MissingExtraError(f"this needs {missing.name}: pip install 'ratelimitd[fast]'") from missing

Config = dict[str, Any]
"""A part of Envoy's configuration, as in JSON."""

PRELOAD = "LD_PRELOAD"
_INSTALLED_IN = Path(__file__).resolve().parents[3]
_HOST_SITE = Path(__file__).parent / "host_site"


def environment() -> dict[str, str]:
    """The variables with which an Envoy finds this Python. Raises ChildError when no Envoy can host it."""
    if sys.platform != "linux":
        raise ChildError(f"an Envoy can host Python on Linux only, not on {sys.platform}")
    envoy_binary()
    found: dict[str, str] = get_envoy_environ()
    if PRELOAD not in found:
        raise ChildError(
            f"{sys.executable} has no shared libpython, which an Envoy needs to host it: use a Python "
            "that was built with --enable-shared, as in the official images, or the transport grpcio"
        )
    return found | {"PYTHONPATH": os.pathsep.join(_module_path())}


def _module_path() -> list[str]:
    """sys.path without the working directory, and with the folder that ratelimitd is installed in at the end.

    The two are the same in a checkout. As the last entry, that folder cannot shadow a library.
    """
    elsewhere = [entry for entry in sys.path if Path(entry).resolve() not in {Path.cwd(), _INSTALLED_IN}]
    return [str(_HOST_SITE), *elsewhere, str(_INSTALLED_IN)]


def command(config: Config) -> tuple[list[str], int]:
    """The arguments that run Envoy with `config`, and the file descriptor that the process must inherit.

    The file has no name: a configuration may hold keys, which `ps` must not show, and may have any length.
    """
    file = os.memfd_create("envoy.json")
    os.write(file, json.dumps(config).encode())
    os.lseek(file, 0, os.SEEK_SET)
    return [envoy_binary(), "--config-path", f"/dev/fd/{file}", "--disable-hot-restart"], file


def become(
    config: Config,
    *,
    environ: Mapping[str, str],
    arguments: Sequence[str],
    metrics_sockets: Sequence[socket],
) -> NoReturn:
    """Replaces this process by an Envoy with `config`, which inherits the sockets.

    Raises ChildError when that is not possible.
    """
    environ = {**environ, **environment(), **bequeathed(metrics_sockets)}
    line, file = command(config)
    # Envoy handles these signals even where they are ignored, but it keeps those that are blocked.
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {number for number in ENDING - {signal.SIGTERM} if is_ignored(number)}
    )
    for descriptor in (file, *(one.fileno() for one in metrics_sockets)):
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - the function takes no keyword
    os.execve(line[0], [*line, *arguments], environ)  # noqa: S606 - no shell is needed


def filter_chain(app: str, *, max_connection_age_s: int = 0) -> Config:
    """The network filters that serve `app` (module:attribute) to clients of HTTP/2 and HTTP/1.

    After `max_connection_age_s` seconds and up to 10 % more, they ask a client to connect again; 0 for never.
    """
    listener = PyvoyServer(app, lifespan=True).get_envoy_config()["static_resources"]["listeners"][0]
    (chain,) = listener["filter_chains"]
    (connections,) = chain["filters"]
    connections["typed_config"] |= {
        "stat_prefix": "ratelimitd",
        "codec_type": "AUTO",
        # So much of a body waits here for the application, which drops most of a large one while it arrives.
        "http2_protocol_options": {"initial_stream_window_size": 65_535},
        # A health Watch sends nothing while the status stays the same.
        "stream_idle_timeout": "0s",
        # Otherwise a proxy would add `server: envoy` to its own responses to clients.
        "server_header_transformation": "PASS_THROUGH",
        "http_filters": [path_filter(), *connections["typed_config"]["http_filters"]],
        "local_reply_config": refusal(),
    }
    if max_connection_age_s:
        connections["typed_config"]["common_http_protocol_options"] = {
            "max_connection_duration": f"{max_connection_age_s}s",
            "max_connection_duration_jitter": {"value": 10},
        }
    return {"filters": chain["filters"]}
