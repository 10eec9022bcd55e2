"""An address to listen on, and a clear sentence when it cannot be had."""

import errno
import os
import re
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

from ratelimitd.errors import ListenError

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, without brackets, and a port; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """Where a process of this machine finds it: one address, where `host` stands for all of them."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket's path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


@dataclass(frozen=True, slots=True)
class Listener:
    """A transport that is up: where, and how it ends.

    After `leave` health says NOT_SERVING, and calls are taken all the same, until those who ask have noticed.
    `ended` returns, with a sentence, when the transport has ended by itself.
    """

    address: Address
    leave: Callable[[], Awaitable[None]]
    ended: Callable[[], Coroutine[None, None, str]]


def parse_listen(text: str) -> Address:
    """The address in `text`. Raises ValueError with a sentence."""
    if text.startswith("unix:/"):
        return UnixAddress(text.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > _MAX_PORT:
        raise ValueError("it must be HOST:PORT, [IPV6]:PORT or unix:/path")
    return TcpAddress(match[1] or match[2], int(match[3]))


def ensure_free(address: Address) -> None:
    """Raises ListenError, which says why, when `address` cannot be listened on.

    gRPC itself only says that it failed, and takes over a Unix socket that another process still serves.
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
