"""Generator of direct load: a process that makes many concurrent gRPC calls.

It reads a `LoadSpec` as JSON from standard input and prints a `LoadResult` as JSON. It waits for the response
to every call and counts equal responses; `bench.measure` decides what they mean.
"""

import json
import selectors
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count

from bench.errors import BenchError
from bench.http2_client import Connection, ResponseCounts
from bench.workloads import ID_DIGITS


@dataclass(frozen=True)
class LoadSpec:
    """The calls to make.

    Args:
        host: address of the service.
        port: port of the service.
        path: the gRPC method, `/SERVICE/METHOD`.
        connections: number of connections.
        streams: concurrent calls on each connection.
        calls: total number of calls.
        pieces: the message in hexadecimal; a user's number, in 8 digits, goes between the pieces.
        user_ranges: (first number, count) of each group of users. Calls alternate between the groups, and
            each group uses its users in turn.
        timeout_s: time for all calls.
    """

    host: str
    port: int
    path: str
    connections: int
    streams: int
    calls: int
    pieces: Sequence[str]
    user_ranges: Sequence[tuple[int, int]]
    timeout_s: float


@dataclass(frozen=True)
class LoadResult:
    """Result of a load. `responses` are (first bytes, trailers, count), with bytes in hexadecimal."""

    seconds: float
    cpu_s: float
    mean_us: float
    p99_us: float
    responses: Sequence[tuple[str, str, int]]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of the sorted `values` lies."""
    return values[min(len(values) - 1, int(len(values) * share))]


def request_bodies(spec: LoadSpec) -> Iterator[bytes]:
    """Yields the messages to send, without end."""
    pieces = [bytes.fromhex(piece) for piece in spec.pieces]
    for number in count():
        for first, users in spec.user_ranges:
            yield (b"%0*d" % (ID_DIGITS, first + number % users)).join(pieces)


def run(spec: LoadSpec) -> LoadResult:
    """Keeps every stream of every connection busy until all calls have ended. Raises BenchError."""
    responses: ResponseCounts = Counter()
    took_ns: list[int] = []
    bodies = request_bodies(spec)
    address = (spec.host, spec.port)
    connections = [
        Connection(address, spec.path, bodies, responses, took_ns) for _ in range(spec.connections)
    ]
    for connection in connections:
        connection.wait_for_settings()
        if (connection.max_streams or 0) < spec.streams:
            raise BenchError(
                f"the server allows only {connection.max_streams} concurrent calls per connection"
            )
    began, cpu_began = time.perf_counter(), time.process_time()
    _send_and_receive(connections, spec)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    for connection in connections:
        connection.socket.close()
    took_ns.sort()
    return LoadResult(
        seconds,
        cpu_s,
        sum(took_ns) / len(took_ns) / 1000,
        percentile(took_ns, 0.99) / 1000,
        [(first.hex(), trailers.hex(), number) for (first, trailers), number in responses.items()],
    )


def _send_and_receive(connections: Sequence[Connection], spec: LoadSpec) -> None:
    selector, deadline = selectors.DefaultSelector(), time.monotonic() + spec.timeout_s
    unsent = unanswered = spec.calls
    for connection in connections:
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        first = min(spec.streams, unsent)
        connection.start(first)
        unsent -= first
    while unanswered:
        ready = selector.select(deadline - time.monotonic())
        if not ready:
            raise BenchError(
                f"{unanswered} of {spec.calls} calls had no response within {spec.timeout_s:g} s"
            )
        for key, _ in ready:
            ended = key.data.receive()
            unanswered -= ended
            if more := min(ended, unsent):
                unsent -= more
                key.data.start(more)


def main() -> None:
    """Reads one line of JSON and prints one. Exits with status 1 and a message on failure."""
    try:
        result = run(LoadSpec(**json.loads(sys.stdin.readline())))
    except (BenchError, OSError) as error:
        sys.exit(f"grpc_load: {error}")
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main()
