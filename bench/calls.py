"""The load that goes straight to a service: many gRPC calls at once, in a process of its own.

It reads a `Calls` as JSON and prints a `Called`. Every call is answered and every answer is counted: what the
answers say is judged by who reads the counts (`bench.messages`).
"""

import json
import selectors
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count

from bench.http2 import Answers, Connection, LoadError

ID_DIGITS = 8


@dataclass(frozen=True)
class Calls:
    """What to send. A message is its `pieces`, in hexadecimal, with a user's number in 8 digits between them.

    `turns` are (first, users): calls take turns, and each turn goes through its users one after the other.
    """

    host: str
    port: int
    path: str
    connections: int
    streams: int
    calls: int
    pieces: Sequence[str]
    turns: Sequence[tuple[int, int]]
    timeout_s: float


@dataclass(frozen=True)
class Called:
    """What came of it. `answers` are (begin, trailers, how many), in hexadecimal."""

    seconds: float
    cpu_s: float
    mean_us: float
    p99_us: float
    answers: Sequence[tuple[str, str, int]]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the sorted `values` does not exceed."""
    return values[min(len(values) - 1, int(len(values) * share))]


def messages(calls: Calls) -> Iterator[bytes]:
    """The messages, without end."""
    pieces = [bytes.fromhex(piece) for piece in calls.pieces]
    for number in count():
        for first, users in calls.turns:
            yield (b"%0*d" % (ID_DIGITS, first + number % users)).join(pieces)


def run(calls: Calls) -> Called:
    """Keeps every stream of every connection busy until all calls are answered. Raises LoadError."""
    answers: Answers = Counter()
    took_ns: list[int] = []
    texts = messages(calls)
    address = (calls.host, calls.port)
    connections = [Connection(address, calls.path, texts, answers, took_ns) for _ in range(calls.connections)]
    for connection in connections:
        connection.greet()
        if (connection.max_streams or 0) < calls.streams:
            raise LoadError(f"the peer takes {connection.max_streams} calls at once on a connection")
    began, cpu_began = time.perf_counter(), time.process_time()
    _until_answered(connections, calls)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    for connection in connections:
        connection.socket.close()
    took_ns.sort()
    return Called(
        seconds,
        cpu_s,
        sum(took_ns) / len(took_ns) / 1000,
        percentile(took_ns, 0.99) / 1000,
        [(begin.hex(), trailers.hex(), number) for (begin, trailers), number in answers.items()],
    )


def _until_answered(connections: Sequence[Connection], calls: Calls) -> None:
    waiting, deadline = selectors.DefaultSelector(), time.monotonic() + calls.timeout_s
    unsent = unanswered = calls.calls
    for connection in connections:
        waiting.register(connection.socket, selectors.EVENT_READ, connection)
        first = min(calls.streams, unsent)
        connection.start(first)
        unsent -= first
    while unanswered:
        ready = waiting.select(deadline - time.monotonic())
        if not ready:
            raise LoadError(f"{unanswered} of {calls.calls} calls had no answer in {calls.timeout_s:g} s")
        for key, _ in ready:
            ended = key.data.receive()
            unanswered -= ended
            if more := min(ended, unsent):
                unsent -= more
                key.data.start(more)


def main() -> None:
    """The process: a line of JSON in, a line of JSON out, and one sentence when it fails."""
    try:
        called = run(Calls(**json.loads(sys.stdin.readline())))
    except (LoadError, OSError) as error:
        sys.exit(f"calls: {error}")
    sys.stdout.write(json.dumps(asdict(called)) + "\n")


if __name__ == "__main__":
    main()
