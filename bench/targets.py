"""Targets: the running things that are put under load, and the names under which the tables list them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from bench import grpc_methods
from bench.grpc_methods import Method
from ratelimitd.address import TcpAddress

GRPCIO, FAST, INSIDE = "grpcio", "fast", "inside the front Envoy"
"""The three ways to run the service."""

ECHO_OF = {GRPCIO: "echo on grpc.aio", FAST: "echo on the fast host", INSIDE: "echo inside the front Envoy"}
"""Floors: echo servers that run in the same way."""

STORE_ECHO_OF = {
    GRPCIO: "echo on grpc.aio, calling the store",
    FAST: "echo on the fast host, calling the store",
}
"""Floors: echo servers that call the store as the service does. Only the decision itself is missing."""

UNLIMITED = "Envoy with no limit"
EXTERNAL = "external service"
"""A service that the user of the bench runs."""

OTHER_CHECKOUT = "fast, other checkout"

LEASING = "fast, with leases"
"""The service with a policy that leases the global bucket."""

UNOBSERVED = "fast, not observed"
"""Floor: the service without metrics, usage counts and top users."""


class Front(NamedTuple):
    """An Envoy that calls the service before it forwards a request."""

    address: TcpAddress
    pid: int


@dataclass(frozen=True)
class Target:
    """A running target.

    Args:
        name: its name in the tables.
        address: where direct load goes, or None if it accepts none.
        method: the gRPC method of direct load.
        service_pid: the service's process, or None if it runs inside the front Envoy or is unknown.
        store_pid: the process of its store, or None if it does not call a store.
        front: the front Envoy, or None.
        start_s: time from the start of the process to the first successful health check or request.
    """

    name: str
    address: TcpAddress | None
    method: Method = field(default_factory=grpc_methods.check)
    service_pid: int | None = None
    store_pid: int | None = None
    front: Front | None = None
    start_s: float = 0.0


def external(address: TcpAddress, *, rls: bool, service_pid: int | None, store_pid: int | None) -> Target:
    """A service that the user of the bench runs, with the processes whose CPU is read."""
    method = grpc_methods.should_rate_limit() if rls else grpc_methods.check()
    return Target(EXTERNAL, address, method, service_pid=service_pid, store_pid=store_pid)
