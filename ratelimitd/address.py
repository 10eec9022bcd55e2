"""Addresses that a process listens on or connects to: HOST:PORT, [IPV6]:PORT or unix:/path."""

import re
from dataclasses import dataclass

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


def parse_address(text: str) -> Address:
    """The address in `text`. Raises ValueError with a sentence."""
    if text.startswith("unix:/"):
        return UnixAddress(text.removeprefix("unix:"))
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/\s]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > _MAX_PORT:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:/path")
    return TcpAddress(match[1] or match[2], int(match[3]))
