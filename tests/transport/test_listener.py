"""Addresses to listen on, and the sentence when one cannot be had."""

import socket
from pathlib import Path

import pytest

from ratelimitd.address import TcpAddress, UnixAddress, parse_address
from ratelimitd.errors import ListenError
from ratelimitd.transport.listener import ensure_free


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "[::1]:0", "localhost:65535", "unix:/run/r.sock"])
def test_an_address_reads_and_prints_the_same(text: str) -> None:
    """Host and port, IPv6 in brackets, or a path."""
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host", "host:", "host:65536", "::1:5", "unix:x", "a b:1"]
)
def test_anything_else_is_refused(text: str) -> None:
    """The sentence shows the three forms."""
    with pytest.raises(ValueError, match=r"HOST:PORT, \[IPV6\]:PORT or unix:/path"):
        parse_address(text)


def test_a_port_in_use_is_a_sentence() -> None:
    """It names the address and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TcpAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=rf"cannot listen on {address}: Address already in use"):
            ensure_free(address)


def test_a_socket_that_another_process_serves_is_left_alone(tmp_path: Path) -> None:
    """A stale file is free, a served one is not."""
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="in use"):
            ensure_free(UnixAddress(str(path)))
    ensure_free(UnixAddress(str(path)))


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """It is somebody's."""
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ListenError, match="File exists"):
        ensure_free(UnixAddress(str(path)))
    assert path.read_text() == "mine"


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    """Before gRPC would only say that it failed."""
    with pytest.raises(ListenError, match="No such file or directory"):
        ensure_free(UnixAddress(f"{tmp_path}/none/r.sock"))
