"""What kind of server a connection has reached, and the sentence for one of the wrong kind."""

import re
from contextlib import suppress
from typing import Any, NamedTuple

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from ratelimitd.store_url import Node

MASTER_ROLES = {b"master", b""}
"""The role of a master in HELLO and INFO; empty if the server does not say."""

CLUSTER_MODES = {b"cluster", b""}
"""The mode of a node of a cluster; empty if it does not say."""

AT_SOCKET, ADDRESS = "the server at the socket", "HOST:PORT"
"""What a sentence calls a server at a socket, and its address in a URL."""

_INFO_FIELDS = (b"redis_mode", b"role")


class Server(NamedTuple):
    """What a server says that it is; empty parts are unknown.

    Args:
        mode: `standalone`, `cluster` or `sentinel`.
        role: `master`, or another word for a replica.
    """

    mode: bytes
    role: bytes


async def server_of(connection: AbstractConnection) -> Server:
    """Returns what the server is, from its reply to HELLO, which is outstanding.

    It asks a server that does not know HELLO by INFO.
    """
    with suppress(ResponseError):
        reply = await connection.read_response()
        fields = dict(zip(reply[::2], reply[1::2], strict=False)) if isinstance(reply, list) else {}
        return Server(bytes(fields.get(b"mode", b"")), bytes(fields.get(b"role", b"")))
    with suppress(ResponseError):  # a server before Redis 6, or a proxy, does not know HELLO
        await connection.send_command("INFO", check_health=False)
        info = await connection.read_response()
        if isinstance(info, bytes):
            mode, role = (re.search(rb"^%b:(\w+)" % name, info, re.MULTILINE) for name in _INFO_FIELDS)
            return Server(mode[1] if mode else b"", role[1] if role else b"")
    return Server(b"", b"")


def scheme_of(connection: Any) -> str:
    """Returns the scheme of a URL that would connect in the same way."""
    return "rediss" if getattr(connection, "tls", None) else "redis"


async def services_of(sentinel: AbstractConnection) -> list[str]:
    """Returns the names of the masters that a connected Sentinel watches; none if it does not say."""
    with suppress(ResponseError):
        await sentinel.send_command("SENTINEL", "MASTERS", check_health=False)
        masters = await sentinel.read_response()
        pairs = [dict(zip(fields[::2], fields[1::2], strict=False)) for fields in masters]
        return sorted(fields[b"name"].decode() for fields in pairs)
    return []


def cluster_instead_of_store(node: Node | None, scheme: str) -> str:
    """Returns the reason why a node of a cluster cannot be a store, with the URL that would be right.

    `node` is None for a server at a socket.
    """
    return f"{node or AT_SOCKET} is a node of a Redis Cluster; expected {scheme}+cluster://{node or ADDRESS}"


def sentinel_instead_of_store(node: Node | None, scheme: str, services: list[str]) -> str:
    """Returns the reason why a Sentinel cannot be a store, with the URL that would be right.

    `node` is None for a server at a socket.
    """
    service = services[0] if len(services) == 1 else "SERVICE"
    names = f", where SERVICE is one of {', '.join(services)}" if len(services) > 1 else ""
    return (
        f"{node or AT_SOCKET} is a Redis Sentinel, which holds no data; "
        f"expected {scheme}+sentinel://{node or ADDRESS}/{service}{names}"
    )
