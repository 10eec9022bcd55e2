"""Tests of the sockets of the metrics, and of the error when they cannot be bound."""

import re
import socket
from contextlib import ExitStack

import pytest

from ratelimitd.address import Address, TcpAddress, UnixAddress
from ratelimitd.errors import ListenError
from ratelimitd.settings import load
from ratelimitd.transport.metrics_sockets import bequeathed, inherited, open_metrics_sockets

ELSEWHERE = TcpAddress("127.0.0.1", 50051)


def bound(listen: str, beside: Address | None = ELSEWHERE) -> list[tuple[str, int]]:
    """Binds the sockets, closes them, and returns their addresses."""
    with ExitStack() as stack:
        sockets = open_metrics_sockets(load({}, {"metrics_listen": listen}), beside)
        return [stack.enter_context(one).getsockname()[:2] for one in sockets]


def test_port_0_is_a_free_port_and_off_is_no_socket() -> None:
    ((host, port),) = bound("127.0.0.1:0")
    assert (host, port > 0) == ("127.0.0.1", True)
    assert bound("off") == []


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ("192.0.2.1:9091", "this machine has no such address; use another address"),
        ("nowhere.invalid:9091", "the host name cannot be resolved: "),
        ("a..b:9091", "not a valid host name; use another address"),
        (
            "127.0.0.1:TAKEN",
            "Address already in use; use another port, since each replica on a machine needs",
        ),
        ("0.0.0.0:TAKEN", "Address already in use; use another port, since each replica on a machine needs"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence_with_the_setting(listen: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = listen.replace("TAKEN", str(taken.getsockname()[1]))
        sentence = f"RATELIMITD_METRICS_LISTEN: cannot listen on {listen}: {reason}"
        with pytest.raises(ListenError, match=f"^{re.escape(sentence)}.*, or `off`$"):
            bound(listen)


def test_a_port_that_needs_more_rights_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ListenError, match=r"9091: Permission denied; use another address, or `off`$"):
        bound("127.0.0.1:9091")


def test_without_ipv6_the_error_names_the_address_to_use_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with pytest.raises(ListenError, match=re.escape("this machine has no IPv6; use 0.0.0.0:9091")):
        bound("[::]:9091")


@pytest.mark.parametrize(
    ("listen", "beside"),
    [
        ("127.0.0.1:PORT", "127.0.0.1"),
        ("0.0.0.0:PORT", "127.0.0.1"),
        ("127.0.0.1:PORT", "::"),
        ("localhost:PORT", "127.0.0.1"),
        ("127.1:PORT", "localhost"),
    ],
)
def test_the_port_of_the_grpc_server_is_refused(listen: str, beside: str) -> None:
    service = TcpAddress(beside, 50051)
    listen = listen.replace("PORT", "50051")
    sentence = f"cannot listen on {listen}: RATELIMITD_LISTEN is {service}; use another port, or `off`"
    with pytest.raises(ListenError, match=re.escape(sentence)):
        bound(listen, service)


@pytest.mark.parametrize(
    "beside", [TcpAddress("192.0.2.1", 1), TcpAddress("nowhere.invalid", 1), UnixAddress("/r.sock"), None]
)
def test_an_address_of_the_grpc_server_that_differs_is_no_obstacle(beside: Address | None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    if isinstance(beside, TcpAddress):
        beside = TcpAddress(beside.host, port)
    assert bound(f"127.0.0.1:{port}", beside) == [("127.0.0.1", port)]


def test_a_process_finds_the_sockets_that_it_inherits() -> None:
    ours = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [one.getsockname() for one in ours]
    environ = bequeathed(ours)
    for one in ours:
        one.detach()  # the descriptors now belong to the process that inherits them
    with ExitStack() as stack:
        theirs = [stack.enter_context(one) for one in inherited(environ)]
        assert [one.getsockname() for one in theirs] == addresses
    assert inherited(bequeathed([])) == inherited({}) == []
