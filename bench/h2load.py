"""h2load, of nghttp2: the load that goes through Envoy. Its log tells each request's status and time.

Users are many where the path says so: each connection goes through the same list of paths, and the Envoy of
the bench adds the connection's port, so no two connections share a user.
"""

import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.calls import percentile
from bench.front import HOT_PATH, MANY_PATH
from bench.http2 import LoadError
from bench.messages import HOT, user_id
from bench.works import Work
from ratelimitd.address import TcpAddress

PROGRAM = "h2load"
MISSING = "h2load is missing: apt-get install nghttp2-client"
PATHS = 5_000
"""How many users a connection has, where they are many."""

_FINISHED = re.compile(r"^finished in (\d+(?:\.\d+)?)(s|ms|us), ", re.MULTILINE)
_COUNTS = re.compile(r"^requests: (\d+) total, .* (\d+) errored, (\d+) timeout$", re.MULTILINE)
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_COLUMNS = 3


@dataclass(frozen=True)
class Loaded:
    """What came of a load: how long it took, the statuses, and the times of its requests."""

    seconds: float
    statuses: Counter[int]
    mean_us: float
    p99_us: float


def ensure_installed() -> None:
    """Raises LoadError, which says what to type, where there is no h2load."""
    if shutil.which(PROGRAM) is None:
        raise LoadError(MISSING)


def write_paths(work: Work, file: Path, paths: int = PATHS) -> None:
    """The paths that each connection goes through, one a line."""
    many = [f"{MANY_PATH}{number:04d}" for number in range(paths)]
    lines = {
        Work.MANY: many,
        Work.HOT: [HOT_PATH],
        Work.MIXED: [line for path in many for line in (HOT_PATH, path)],
    }
    file.write_text("".join(f"http://front{path}\n" for path in lines[work]))


def command(front: TcpAddress, connections: int, requests: int, paths: Path, log: Path) -> list[str]:
    """The command line: HTTP/1.1, one request at a time on each connection."""
    return [
        *(PROGRAM, "--h1", "-n", str(requests), "-c", str(connections)),
        *("-i", str(paths), "-B", f"http://{front}", "-H", f"x-user-id: {user_id(HOT)}"),
        f"--log-file={log}",
    ]


def parse(output: str, log: Sequence[str]) -> Loaded:
    """What h2load printed and logged. Raises LoadError when it is not what h2load says of a whole load."""
    finished, counts = _FINISHED.search(output), _COUNTS.search(output)
    if finished is None or counts is None:
        raise LoadError(f"h2load said something else than expected: {output[-300:]!r}")
    rows = [line.split("\t") for line in log]
    if any(len(row) < _COLUMNS for row in rows):
        raise LoadError("h2load's log has another form than expected")
    total, errored, late = (int(number) for number in counts.groups())
    if errored or late or len(rows) != total:
        raise LoadError(f"h2load: of {total} requests {errored} failed, {late} timed out, {len(rows)} ended")
    took_us = sorted(int(row[2]) for row in rows)
    return Loaded(
        float(finished[1]) * _SECONDS[finished[2]],
        Counter(int(row[1]) for row in rows),
        sum(took_us) / len(took_us),
        percentile(took_us, 0.99),
    )
