"""Addresses to listen on. An address means the same to every server of ratelimitd.

A name stands for all of its addresses that this machine has. `[::]` stands for every address of this machine,
IPv6 and IPv4. An address that cannot be used is a ListenError with the reason.
"""

import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from ratelimitd.address import Address, TcpAddress, UnixAddress
from ratelimitd.errors import ListenError
from ratelimitd.process.loopback import free_port

_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_REASONS = {
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EAFNOSUPPORT: "this machine has no IPv6",
}


class Binding(NamedTuple):
    """An address to listen on.

    Args:
        address: as it was given, with a port that is not 0.
        each: the addresses for which it stands, without names.
    """

    address: Address
    each: Sequence[Address]


def free_binding(address: Address) -> Binding:
    """What to bind for `address`; all of it is free. Raises ListenError. It may wait for a name server.

    This must come first: grpc and Envoy give no reason for a failure, and take over a Unix socket that
    another process still serves.
    """
    if isinstance(address, UnixAddress):
        try:
            _ensure_unserved(Path(address.path))
        except OSError as error:
            raise _listen_error(address, error) from error
        return Binding(address, [address])
    with ExitStack() as stack:
        servers = [stack.enter_context(server) for server in open_sockets(address)]
        each = [TcpAddress(*server.getsockname()[:2]) for server in servers]
    return Binding(TcpAddress(address.host, each[0].port), each)


def open_sockets(address: TcpAddress) -> list[socket.socket]:
    """Sockets that listen on each address of `address`, on the same port. Raises ListenError."""
    port = address.port or free_port()
    servers: list[socket.socket] = []
    missing: OSError | None = None
    with ExitStack() as stack:
        try:
            for host in _hosts(address.host):
                try:
                    servers.append(stack.enter_context(_server(host, port)))
                except OSError as error:
                    if error.errno not in _MISSING:
                        raise
                    missing = error
            if missing is not None and not servers:
                raise missing
        except (OSError, UnicodeError) as error:
            raise _listen_error(address, error) from error
        stack.pop_all()
    return servers


def overlap(one: TcpAddress, other: TcpAddress) -> bool:
    """Whether both cannot be listened on at once. A host that cannot be resolved overlaps with nothing."""
    if one.port != other.port:
        return False
    try:
        return one.every or other.every or not set(_hosts(one.host)).isdisjoint(_hosts(other.host))
    except (OSError, UnicodeError):
        return False


@contextmanager
def ipv6_port_taken(address: Address) -> Iterator[None]:
    """Occupies the IPv6 port of `0.0.0.0:PORT`; does nothing for any other address.

    grpc listens on IPv6 as well for this address, unless it cannot.
    """
    with ExitStack() as stack:
        if isinstance(address, TcpAddress) and address.host == "0.0.0.0":
            with suppress(OSError):  # without IPv6, or with the port in use, grpc would fail too
                taken = stack.enter_context(socket.socket(socket.AF_INET6))
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                taken.bind(("::", address.port))
        yield


def _hosts(name: str) -> list[str]:
    """The IP addresses of a host, each once. An IPv4 address within IPv6 becomes the IPv4 address."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys(str(sockaddr[0]).removeprefix("::ffff:") for *_, sockaddr in found))


def _server(host: str, port: int) -> socket.socket:
    if ":" not in host:
        return socket.create_server((host, port))
    every = ip_address(host).is_unspecified
    if every and not socket.has_dualstack_ipv6():
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")
    return socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=every)


def _ensure_unserved(path: Path) -> None:
    if not path.parent.is_dir():
        raise OSError(errno.ENOENT, "no such folder")
    if path.exists() and not path.is_socket():
        raise OSError(errno.EEXIST, "no socket")
    if not os.access(path.parent, os.W_OK):
        raise OSError(errno.EACCES, "the folder is not writable")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise OSError(errno.EADDRINUSE, "in use")


def _listen_error(address: Address, error: OSError | UnicodeError) -> ListenError:
    if isinstance(error, UnicodeError):
        reason = "not a valid host name"
    elif isinstance(error, socket.gaierror):
        reason = f"the host name cannot be resolved: {error.strerror}"
    elif error.errno in _REASONS:
        reason = _REASONS[error.errno]
        if isinstance(address, TcpAddress) and address.every:
            reason += f"; use 0.0.0.0:{address.port}"
    else:
        reason = os.strerror(error.errno) if error.errno else str(error)
    return ListenError(f"cannot listen on {address}: {reason}")
