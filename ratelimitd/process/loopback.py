"""The loopback interface, on which the processes of one machine reach each other."""

import socket

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """Returns a free TCP port of loopback that the kernel gives to no other process for about a minute.

    The listening side closes its connection first, so the connection stays in TIME_WAIT. Until that ends,
    the kernel skips the port where it chooses one itself; a server with SO_REUSEADDR can bind it by number.
    """
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection((LOOPBACK, port)):
            accepted, _ = server.accept()
            accepted.close()
        return port
