"""Command line of the bench."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import targets
from bench.errors import BenchError
from bench.sampling import Pace
from bench.stores import REDIS, VALKEY, installed
from bench.targets import FAST, GRPCIO, INSIDE, Target
from ratelimitd.address import TcpAddress, parse_address

TARGETS = {"grpcio": GRPCIO, "fast": FAST, "front": INSIDE}
"""The services under load: name on the command line, name in the tables."""


@dataclass(frozen=True)
class Options:
    """The parsed command line.

    Args:
        pace: rounds and duration of the loads.
        users: number of users for the memory tables.
        apis: number of APIs for the memory of the services.
        markdown: whether to print Markdown.
        targets: keys of TARGETS.
        store: kind of store.
        external: a service that the user of the bench runs, or None.
        against: another checkout to compare with, or None.
        observers: whether only to compare `fast` with and without observers.
        leases: whether only to compare `fast` with and without leases of the global bucket.
    """

    pace: Pace
    users: int
    apis: int
    markdown: bool
    targets: tuple[str, ...]
    store: str
    external: Target | None
    against: Path | None
    observers: bool
    leases: bool


def parse(arguments: Sequence[str]) -> Options:
    """Parses the command line. Raises BenchError for invalid values."""
    given = _parser().parse_args(arguments)
    names = tuple(given.targets.split(","))
    if unknown := set(names) - set(TARGETS):
        raise BenchError(
            f"--targets: unknown target {', '.join(sorted(unknown))}; expected {', '.join(TARGETS)}"
        )
    if given.rounds < 1 or given.seconds <= 0:
        raise BenchError("--rounds and --seconds must be above 0")
    return Options(
        pace=Pace(1, 0.05, 50, warm_up_only=True) if given.quick else Pace(given.rounds, given.seconds, 500),
        users=2_000 if given.quick else 100_000,
        apis=50 if given.quick else 1_000,
        markdown=given.markdown,
        targets=names,
        store=given.store,
        external=_external(given),
        against=_checkout(given.against),
        observers=given.observers,
        leases=given.leases,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what a decision costs.")
    add = parser.add_argument
    default = ",".join(TARGETS)
    add("--rounds", type=int, default=5, help="rounds; every figure is the median over them (default 5)")
    add("--seconds", type=float, default=1.2, help="approximate duration of one load (default 1.2)")
    add("--quick", action="store_true", help="smoke test: one short round, few users, meaningless figures")
    add("--markdown", action="store_true", help="print tables in Markdown")
    add("--targets", default=default, help=f"services to measure, comma-separated (default {default})")
    add("--store", choices=[REDIS, VALKEY], default=installed()[0], help="default: redis if installed")
    add("--against", type=Path, metavar="DIR", help="only compare `fast` with another checkout's `fast`")
    add("--observers", action="store_true", help="only compare `fast` with and without observers")
    add("--leases", action="store_true", help="only compare `fast` with and without leases")
    external = parser.add_mutually_exclusive_group()
    external.add_argument("--ext-authz", metavar="HOST:PORT", help="also measure this ext_authz service")
    external.add_argument("--rls", metavar="HOST:PORT", help="also measure this rate limit service")
    add("--pid", type=int, help="process of that service, to read its CPU")
    add("--store-pid", type=int, help="process of that service's store")
    return parser


def _external(given: argparse.Namespace) -> Target | None:
    text = given.ext_authz or given.rls
    if text is None:
        return None
    try:
        address = parse_address(text)
    except ValueError:
        address = None
    if not isinstance(address, TcpAddress):
        raise BenchError(f"{text}: not a valid address; expected HOST:PORT")
    return targets.external(
        address, rls=given.rls is not None, service_pid=given.pid, store_pid=given.store_pid
    )


def _checkout(path: Path | None) -> Path | None:
    if path is None:
        return None
    checkout: Path = path.resolve()
    if not (checkout / ".venv/bin/python").exists():
        raise BenchError(f"--against: {checkout} has no .venv/bin/python; run `make .venv/ready` there")
    return checkout
