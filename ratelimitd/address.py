"""Addresses that a process listens on or connects to: HOST:PORT, [IPV6]:PORT or unix:/path."""

import re
from dataclasses import dataclass

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
    def reachable_host(self) -> str:
        """The host to connect to from this machine: loopback where `host` stands for all addresses."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)

    @property
    def reachable(self) -> "TcpAddress":
        """The address to connect to from this machine."""
        return TcpAddress(self.reachable_host, self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a Unix socket."""

    path: str

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
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > _MAX_PORT:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:/path")
    return TcpAddress(match[1] or match[2], int(match[3]))
