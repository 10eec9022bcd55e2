"""Tests of finding free ports of loopback."""

import socket

from ratelimitd.process.loopback import LOOPBACK, free_port


def _port_of_the_kernels_choice() -> int:
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_the_kernel_gives_a_free_port_to_no_other_process() -> None:
    ports = {free_port() for _ in range(300)}
    assert len(ports) == 300
    assert ports.isdisjoint(_port_of_the_kernels_choice() for _ in range(3000))


def test_a_server_can_listen_on_a_free_port_at_once() -> None:
    port = free_port()
    with (
        socket.create_server((LOOPBACK, port)),
        socket.create_connection((LOOPBACK, port)),
    ):
        pass
