"""A name server for drills that change the address of a store, or leave its name without an answer."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from drills.isolation import need_isolation, run
from ratelimitd.process.loopback import LOOPBACK

NAME = "store.drill.test"

_PORT = 53
_RESOLV_CONF = os.path.realpath("/etc/resolv.conf")
"""A mount must not be at a symbolic link."""

_HEADER_BYTES = 12
_TYPE_A = b"\x00\x01"
_CLASS_IN = b"\x00\x01"
_POINTER_TO_QUESTION = b"\xc0\x0c"
_RESPONSE_FLAGS = b"\x84\x00"
"""A response, authoritative, without an error."""


class NameServer(asyncio.DatagramProtocol):
    """Answers questions about any name (RFC 1035, section 4).

    Args:
        address: the IPv4 address of every name.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.silent = False
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport  # type: ignore[assignment] # of UDP

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Answers a question, unless the server is silent."""
        if not self.silent and self._transport is not None and len(data) > _HEADER_BYTES:
            self._transport.sendto(answer(data, self.address), addr)


def answer(query: bytes, address: str) -> bytes:
    """Returns the response to a query of one question: one address that may not be cached, or none."""
    end = query.index(b"\0", _HEADER_BYTES) + 1
    question = query[_HEADER_BYTES : end + 4]
    found = question.endswith(_TYPE_A + _CLASS_IN)
    head = query[:2] + _RESPONSE_FLAGS + b"\x00\x01" + (b"\x00\x01" if found else b"\x00\x00") + bytes(4)
    if not found:
        return head + question
    record = _POINTER_TO_QUESTION + _TYPE_A + _CLASS_IN + bytes(4) + b"\x00\x04"
    return head + question + record + socket.inet_aton(address)


@asynccontextmanager
async def name_server(address: str, folder: Path) -> AsyncIterator[NameServer]:
    """Makes a server of its own the name server of this process's namespace until the end of the block."""
    need_isolation("mount", "umount")
    config = folder / "resolv.conf"
    config.write_text(f"nameserver {LOOPBACK}\noptions timeout:1 attempts:2\n")
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(address), local_addr=(LOOPBACK, _PORT)
    )
    await run("mount", "--bind", str(config), _RESOLV_CONF)
    try:
        yield server
    finally:
        await run("umount", _RESOLV_CONF)
        transport.close()
