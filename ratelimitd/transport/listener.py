"""The handle of a running transport, and a check that its address is free."""

import errno
import os
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.address import Address, UnixAddress
from ratelimitd.errors import ListenError


@dataclass(frozen=True, slots=True)
class Listener:
    """A running transport.

    Args:
        address: where it listens.
        leave: turns health to NOT_SERVING. Calls are still accepted, because callers notice only later.
        ended: returns when the transport has ended by itself, with a sentence that says how.
    """

    address: Address
    leave: Callable[[], None]
    ended: Callable[[], Coroutine[None, None, str]]


def ensure_free(address: Address) -> None:
    """Raises ListenError with the reason when no process can listen on `address`.

    grpc itself gives no reason, and takes over a Unix socket that another process still serves.
    """
    try:
        if isinstance(address, UnixAddress):
            _ensure_unserved(address.path)
        else:
            with socket.create_server((address.host, address.port), family=_family(address.host)):
                pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise ListenError(f"cannot listen on {address}: {reason}") from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _ensure_unserved(path: str) -> None:
    if not Path(path).parent.is_dir():
        raise OSError(errno.ENOENT, "no such folder")
    if Path(path).exists() and not Path(path).is_socket():
        raise OSError(errno.EEXIST, "no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise OSError(errno.EADDRINUSE, "in use")
