"""The loads of `pyvoy_calls`, and what is measured of each."""

from collections.abc import Mapping
from typing import NamedTuple

from bench.pyvoy_echo import LOOP
from bench.pyvoy_envoy import BY_SOCKET, DIRECT, PYVOY
from bench.thread_usage import Usage

WORKER, SECOND = "worker", "second"
"""The thread of Envoy, and the one that passes events on to the event loop, whose thread is LOOP."""
THREADS = (WORKER, SECOND, LOOP)
BODY_BYTES = 344
"""The length of a CheckRequest for a short path."""


class Shape(NamedTuple):
    """A kind of load: connections of HTTP/2, calls at a time on each, and the share of the calls to make."""

    connections: int
    streams: int
    share: float

    def __str__(self) -> str:
        return f"{self.connections} x {self.streams}"


ONE, MANY = Shape(1, 1, 0.2), Shape(4, 32, 1.0)


class Case(NamedTuple):
    """A load: on which host, who answers, and whether the calls have a body."""

    host: str
    answerer: str
    has_body: bool
    shape: Shape


class Sample(NamedTuple):
    """What one load took: calls per second, and per call the usage of each thread."""

    rate: float
    threads: Mapping[str, Usage]


STANDARD, ASYNCIO = "standard", "asyncio instead of uvloop"
HOSTS: Mapping[str, Mapping[str, str]] = {STANDARD: {}, ASYNCIO: {}} | {
    f"PYVOY_GIL_BATCH_SIZE={size}": {"PYVOY_GIL_BATCH_SIZE": str(size)} for size in (1, 8, 40, 128)
}
"""The Envoys, with their environment. A batch of 40 is the default, so its ratios are noise."""

CALLS = [
    Case(STANDARD, answerer, has_body, shape)
    for shape in (ONE, MANY)
    for answerer in (DIRECT, BY_SOCKET, PYVOY)
    for has_body in (False, True)
]
SETTINGS = [
    Case(host, PYVOY, has_body=True, shape=shape)
    for host in HOSTS
    if host != STANDARD
    for shape in (ONE, MANY)
]
