"""Computes how many replicas and Redis nodes a rate of requests needs, from the CPU that a request costs.

docs/scaling.md has the same rows.

    python -m bench.scaling
"""

import sys
from math import ceil
from typing import NamedTuple

from bench.table import Table, markdown
from ratelimitd.core.lease import RENEWED_AT, lease_terms
from ratelimitd.core.model import MICRO, Limit

USED = 0.6
"""The part of a core that is used on average."""

LEAST_MASTERS = 3
"""The least masters of a Redis Cluster."""

SPARE_REPLICAS = 0.1
"""The part of the replicas that may fail, rounded down, but at least one replica."""


class Part(NamedTuple):
    """What a request costs in a part of the system.

    Args:
        name: of the part.
        load: how it was measured.
        us: CPU in microseconds per allowed request.
    """

    name: str
    load: str
    us: int


FAST = Part("replica, `fast`", "4 x 32", 38)
GRPCIO = Part("replica, `grpcio`", "4 x 32", 223)
FULL = Part("Redis, full batches", "`fast`, 4 x 32", 10)
SMALL = Part("Redis, small batches", "`fast`, 8 at a time", 25)
SINGLE = Part("Redis, a call per request", "`fast`, one at a time", 51)
CLUSTER = Part("Redis Cluster of 3 masters, batches", "128 at a time", 33)
ENVOY = Part("Envoy and `fast` together", "64 connections", 147)
PARTS = (FAST, GRPCIO, FULL, SMALL, SINGLE, CLUSTER, ENVOY)
RATES = (10_000, 100_000, 1_000_000)


def per_core(part: Part) -> int:
    """Returns the requests/s that one core decides, rounded down to two digits."""
    rate = int(USED * MICRO / part.us)
    unit: int = 10 ** (len(str(rate)) - 2)
    return rate // unit * unit


def cores(rate: int, part: Part) -> int:
    """Returns the cores that a rate of requests needs."""
    return ceil(rate * part.us / MICRO / USED)


def masters(rate: int, part: Part) -> int:
    """Returns the masters of a Cluster that a rate of requests needs."""
    return max(LEAST_MASTERS, cores(rate, part))


def replicas(rate: int) -> tuple[int, int]:
    """Returns the replicas on `fast` that a rate of requests needs, and the spare ones."""
    needed = cores(rate, FAST)
    return needed, max(1, int(needed * SPARE_REPLICAS))


def takes_per_s(limit: Limit) -> float:
    """Returns how often a busy replica takes a lease of a bucket with this limit, per second.

    A lease has the tokens of half of its time, and is renewed when RENEWED_AT says so.
    """
    terms = lease_terms(limit)
    if terms is None:
        raise ValueError(f"a bucket with {limit} is not leased")
    return MICRO / (terms.usable_us / 2 * (1 - 1 / RENEWED_AT))


def costs_table() -> Table:
    """What a request costs."""
    rows = [[part.name, part.load, f"{part.us} us", f"{per_core(part):,} requests/s"] for part in PARTS]
    return Table("How much a request needs", ["part", "load", "CPU", "one core decides"], rows)


def sizes_table() -> Table:
    """How many replicas and masters each rate needs."""
    rows = [[f"{rate:,}", *_sizes(rate)] for rate in RATES]
    return Table("How many", ["requests/s", "replicas", "Redis", "global bucket"], rows)


def _sizes(rate: int) -> tuple[str, str, str]:
    needed, spare = replicas(rate)
    fleet = f"{needed + spare}: {needed} and {spare} spare"
    if cores(rate, SINGLE) == 1:
        least, most = (rate * part.us / MICRO for part in (FULL, SINGLE))
        return fleet, f"1 server, at {least:.0%} to {most:.0%} of a core", "in the same call"
    batched, single = masters(rate, CLUSTER), masters(rate, SINGLE)
    nodes = f"Cluster of {batched} masters with batches, {single} with a call per request"
    takes = takes_per_s(Limit(4 * rate, float(rate))) * (needed + spare)
    return fleet, nodes, f"leased, about {round(takes, -1):.0f} takes/s"


if __name__ == "__main__":
    sys.stdout.write(f"{markdown(costs_table())}\n{markdown(sizes_table())}")
