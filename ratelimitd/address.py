"""Addresses that a process listens on or connects to: HOST:PORT, [IPV6]:PORT or unix:/path."""

import re
from dataclasses import dataclass
from ipaddress import ip_address

DEFAULT_LISTEN = "127.0.0.1:50051"
"""Where the service listens unless the setting `listen` differs."""

_MAX_PORT = 65535

CLIENT_TIMEOUT_S = 2.0
"""Default time limit of a client that asks a service once. A healthy service answers within milliseconds."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, without brackets, and a port; port 0 lets the system choose."""

    host: str
    port: int

    @property
    def every(self) -> bool:
        """Whether the host stands for every address of the machine: 0.0.0.0 or [::] in any spelling."""
        return is_ip(self.host) and ip_address(self.host).is_unspecified

    @property
    def reachable(self) -> "TcpAddress":
        """The address to connect to from this machine: loopback where `host` stands for every address.

        [::] includes IPv4, and 127.0.0.1 exists on machines without IPv6 too.
        """
        return TcpAddress("127.0.0.1", self.port) if self.every else self

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix socket.

    Args:
        path: where it is.
        mode: permissions of a socket to listen on; None leaves them to the umask.
    """

    path: str
    mode: int | None = None

    @property
    def reachable(self) -> "UnixAddress":
        """This address."""
        return self

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = TcpAddress | UnixAddress


def parse_address(text: str) -> Address:
    """Returns the address in `text`. Raises ValueError with a sentence."""
    if text.startswith("unix:/"):
        return UnixAddress(text.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})", text)
    if match is None or int(match[3]) > _MAX_PORT or not (match[1] is None or is_ip(match[1])):
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:/path")
    return TcpAddress(match[1] or match[2], int(match[3]))


def is_ip(host: str) -> bool:
    """Whether this is an IPv4 or IPv6 address, not a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
