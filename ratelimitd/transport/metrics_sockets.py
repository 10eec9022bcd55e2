"""The sockets of the HTTP server of `/metrics`: bound before the service starts, so that a failure stops it.

With `fast`, and in `ratelimitd envoy`, the process that decides inherits them from the one that was started.
"""

import errno
from collections.abc import Mapping, Sequence
from socket import socket

from ratelimitd.address import Address, TcpAddress
from ratelimitd.errors import ListenError
from ratelimitd.settings import OFF, Settings, env_name
from ratelimitd.transport.binding import open_sockets, overlap

DESCRIPTORS = "_RATELIMITD_METRICS_DESCRIPTORS"
"""The environment variable that names the inherited file descriptors, separated by commas."""


def open_metrics_sockets(settings: Settings, beside: Address | None) -> list[socket]:
    """Returns sockets that listen where the setting says; none if it is off. It may wait for a name server.

    `beside` is the address of the gRPC server. Raises ListenError.
    """
    address = settings.metrics_address()
    if address is None:
        return []
    name = env_name("metrics_listen")
    if isinstance(beside, TcpAddress) and address.port and overlap(address, beside):
        taken = f"{env_name('listen')} is {beside}"
        raise ListenError(f"{name}: cannot listen on {address}: {taken}; use another port, or `{OFF}`")
    try:
        return open_sockets(address)
    except ListenError as error:
        expected = "use another address"
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            expected = "use another port, since each replica on a machine needs its own"
        raise ListenError(f"{name}: {error}; {expected}, or `{OFF}`") from error


def bequeathed(sockets: Sequence[socket]) -> dict[str, str]:
    """Returns the environment with which a process finds the sockets that it inherits."""
    return {DESCRIPTORS: ",".join(str(one.fileno()) for one in sockets)}


def inherited(environ: Mapping[str, str]) -> list[socket]:
    """Returns the sockets that this process has inherited."""
    return [socket(fileno=int(number)) for number in environ.get(DESCRIPTORS, "").split(",") if number]
