"""Tests of addresses to listen on, and of the error when one is not free."""

import re
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from ratelimitd.address import TcpAddress, UnixAddress, parse_address
from ratelimitd.errors import ListenError
from ratelimitd.transport.binding import free_binding, open_sockets


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "[::1]:0", "localhost:65535", "unix:/run/r.sock"])
def test_a_parsed_address_prints_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host", "host:", "host:65536", "::1:5", "unix:x", "a b:1"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT, \[IPV6\]:PORT or unix:/path"):
        parse_address(text)


@pytest.mark.parametrize("text", ["[localhost]:1", "[::1::]:1", "[1.2.3]:1", "h:٣", "h:1\n", "*:x", "h:-1"])
def test_an_address_in_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT, \[IPV6\]:PORT or unix:/path"):
        parse_address(text)


@pytest.mark.parametrize("text", ["0.0.0.0:5", "[::]:5", "[0:0:0:0:0:0:0:0]:5", "[0::0]:5"])
def test_the_address_that_stands_for_every_address_is_reached_over_loopback(text: str) -> None:
    assert str(parse_address(text).reachable) == "127.0.0.1:5"


def reached(address: TcpAddress) -> set[str]:
    """Returns the loopback addresses at which these sockets accept connections."""
    found = set()
    with ExitStack() as stack:
        servers = [stack.enter_context(server) for server in open_sockets(address)]
        port = servers[0].getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with suppress(OSError):
                socket.create_connection((host, port)).close()
                found.add(host)
    return found


BOTH_FAMILIES = {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    ("host", "reachable"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("0.0.0.0", {"127.0.0.1"}),
        ("::1", {"::1"}),
        ("::", BOTH_FAMILIES),
        ("0:0::0", BOTH_FAMILIES),
        ("::ffff:127.0.0.1", {"127.0.0.1"}),
        ("127.1", {"127.0.0.1"}),
    ],
)
def test_an_address_is_bound_in_the_families_that_it_names(host: str, reachable: set[str]) -> None:
    assert reached(TcpAddress(host, 0)) == reachable


def resolving_to(*hosts: str) -> Callable[..., list[Any]]:
    """Returns a getaddrinfo that finds these addresses for `name`."""
    system = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **more: Any) -> list[Any]:
        if host != "name":
            return system(host, *arguments, **more)
        return [(0, 0, 0, "", (found, 0)) for found in hosts]

    return getaddrinfo


def test_a_name_stands_for_all_its_addresses_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolving_to("::1", "192.0.2.1", "127.0.0.1", "127.0.0.1"))
    binding = free_binding(TcpAddress("name", 0))
    assert isinstance(binding.address, TcpAddress)
    port = binding.address.port
    assert port
    assert binding == (TcpAddress("name", port), [TcpAddress("::1", port), TcpAddress("127.0.0.1", port)])


def test_an_address_of_a_name_that_is_in_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        monkeypatch.setattr(socket, "getaddrinfo", resolving_to("127.0.0.1", "::1"))
        with pytest.raises(ListenError, match="Address already in use"):
            free_binding(TcpAddress("name", taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("192.0.2.1", "this machine has no such address"),
        ("2001:db8::1", "this machine has no such address"),
        ("nowhere.invalid", "the host name cannot be resolved: "),
        ("*", "the host name cannot be resolved: "),
        ("a..b", "not a valid host name"),
        ("x" * 64, "not a valid host name"),
    ],
)
def test_an_address_that_cannot_be_used_is_an_error_with_the_reason(host: str, reason: str) -> None:
    address = TcpAddress(host, 50051)
    with pytest.raises(ListenError, match=re.escape(f"cannot listen on {address}: {reason}")):
        free_binding(address)


def test_without_ipv6_the_error_names_the_address_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with pytest.raises(
        ListenError, match=re.escape("cannot listen on [::]:5: this machine has no IPv6; use 0.0.0.0:5")
    ):
        free_binding(TcpAddress("::", 5))


def test_a_port_in_use_is_an_error_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TcpAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=rf"cannot listen on {address}: Address already in use"):
            free_binding(address)


def test_a_socket_that_is_served_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="in use"):
            free_binding(UnixAddress(str(path)))
    free_binding(UnixAddress(str(path)))


def test_a_file_that_is_not_a_socket_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ListenError, match="File exists"):
        free_binding(UnixAddress(str(path)))
    assert path.read_text() == "mine"


def test_a_missing_folder_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file or directory"):
        free_binding(UnixAddress(f"{tmp_path}/none/r.sock"))
