"""The command line of the bench."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from bench import forms as known
from bench.http2 import LoadError
from bench.rounds import Pace
from bench.stores import REDIS, VALKEY, installed
from ratelimitd.address import TcpAddress, parse_address

NAMES = {"grpcio": known.GRPCIO, "fast": known.FAST, "front": known.INSIDE}
"""The forms of the service as the command line names them."""


@dataclass(frozen=True)
class Options:
    """What to do. `users` are those of the memory tables; `other` is a service that the reader runs."""

    pace: Pace
    users: int
    markdown: bool
    forms: tuple[str, ...]
    store: str
    other: known.Form | None


def parse(arguments: Sequence[str]) -> Options:
    """The options, with what --quick makes of them. Raises LoadError for what cannot be done."""
    given = _parser().parse_args(arguments)
    names = tuple(given.forms.split(","))
    if unknown := set(names) - set(NAMES):
        raise LoadError(f"--forms: {', '.join(sorted(unknown))} is none of {', '.join(NAMES)}")
    if given.rounds < 1 or given.seconds <= 0:
        raise LoadError("--rounds and --seconds must be above 0")
    return Options(
        pace=Pace(1, 0.05, 50) if given.quick else Pace(given.rounds, given.seconds, 500),
        users=2_000 if given.quick else 100_000,
        markdown=given.markdown,
        forms=names,
        store=given.store,
        other=_other(given),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="What a decision costs.")
    add = parser.add_argument
    add("--rounds", type=int, default=5, help="rounds; a figure is their median (default 5)")
    add("--seconds", type=float, default=1.2, help="about how long one load takes (default 1.2)")
    add("--quick", action="store_true", help="a smoke run: one short round, few users; no figures to keep")
    add("--markdown", action="store_true", help="tables to paste into a document")
    add("--forms", default=",".join(NAMES), help=f"which forms of the service (default {','.join(NAMES)})")
    add("--store", choices=[REDIS, VALKEY], default=installed()[0], help="default: Redis where installed")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--ext-authz", metavar="HOST:PORT", help="another ext_authz service, which you run")
    other.add_argument("--rls", metavar="HOST:PORT", help="another rate limit service, which you run")
    add("--pid", type=int, help="its process, for its CPU")
    add("--store-pid", type=int, help="the process of its store")
    return parser


def _other(given: argparse.Namespace) -> known.Form | None:
    target = given.ext_authz or given.rls
    if target is None:
        return None
    try:
        address = parse_address(target)
    except ValueError as error:
        raise LoadError(f"{target}: {error}") from error
    if not isinstance(address, TcpAddress):
        raise LoadError(f"{target}: it must be HOST:PORT")
    return known.other(address, rls=given.rls is not None, service=given.pid, store=given.store_pid)
