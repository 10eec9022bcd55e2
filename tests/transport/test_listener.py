"""Tests of addresses to listen on, and of the error when one is not free."""

import socket
from pathlib import Path

import pytest

from ratelimitd.address import TcpAddress, UnixAddress, parse_address
from ratelimitd.errors import ListenError
from ratelimitd.transport.listener import ensure_free


@pytest.mark.parametrize("text", ["127.0.0.1:50051", "[::1]:0", "localhost:65535", "unix:/run/r.sock"])
def test_a_parsed_address_prints_as_it_was_written(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text", ["", "50051", ":50051", "host", "host:", "host:65536", "::1:5", "unix:x", "a b:1"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT, \[IPV6\]:PORT or unix:/path"):
        parse_address(text)


def test_a_port_in_use_is_an_error_with_the_reason() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = TcpAddress("127.0.0.1", taken.getsockname()[1])
        with pytest.raises(ListenError, match=rf"cannot listen on {address}: Address already in use"):
            ensure_free(address)


def test_a_socket_that_is_served_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "r.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match="in use"):
            ensure_free(UnixAddress(str(path)))
    ensure_free(UnixAddress(str(path)))


def test_a_file_that_is_not_a_socket_is_not_free(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ListenError, match="File exists"):
        ensure_free(UnixAddress(str(path)))
    assert path.read_text() == "mine"


def test_a_missing_folder_is_an_error_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="No such file or directory"):
        ensure_free(UnixAddress(f"{tmp_path}/none/r.sock"))
